//! The one error of the product. Variants carry the input, the place, the limit and the remedy; the
//! message, the Python class and the HTTP status all derive from them.

use std::fmt;

use crate::memory::Step;

pub type Result<T> = std::result::Result<T, Error>;

/// Byte offsets into a query's text; `end` is exclusive.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    pub start: u32,
    pub end: u32,
}

impl Span {
    pub fn new(start: usize, end: usize) -> Span {
        Span { start: start as u32, end: end as u32 }
    }

    pub fn to(self, other: Span) -> Span {
        Span { start: self.start.min(other.start), end: self.end.max(other.end) }
    }

    /// 1-based line and column (in characters) of the span's start.
    pub fn line_column(self, text: &str) -> (usize, usize) {
        let mut at = (self.start as usize).min(text.len());
        while !text.is_char_boundary(at) {
            at -= 1;
        }
        let before = &text[..at];
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or("").chars().count() + 1;
        (line, column)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub enum Error {
    /// A query's text is wrong.
    Parse {
        message: String,
        span: Span,
        line: usize,
        column: usize,
        remedy: Option<String>,
    },
    /// A query is well formed but cannot be answered on this data.
    Execution {
        message: String,
    },
    /// An argument or a body is wrong: which, what it was (shortened), why, and what to do.
    Input {
        input: String,
        value: String,
        message: String,
        remedy: String,
    },
    /// A limit was met.
    Limit {
        what: &'static str,
        limit: u64,
        needed: u64,
        remedy: &'static str,
    },
    /// A query would meet a limit, or met it: what of it costs most.
    Costly {
        what: &'static str,
        limit: u64,
        needed: u64,
        /// The costly part with its place and its size.
        part: String,
        remedy: &'static str,
    },
    Timeout {
        timeout_ms: u64,
    },
    Cancelled,
    /// Another than the caller ended the call.
    Killed,
    /// So many queries of a class run and wait that no more are taken.
    Busy {
        class: &'static str,
        running: u64,
        waiting: u64,
    },
    /// The database is at its memory limit, and this is what it refuses first.
    Memory {
        step: Step,
        held: u64,
        limit: u64,
    },
    /// Stored bytes are not what was written.
    Corruption {
        what: String,
        offset: u64,
        message: String,
    },
    /// A file could not be read or written.
    Storage {
        file: String,
        message: String,
        remedy: &'static str,
    },
    /// Another process has the directory.
    Locked {
        path: String,
        /// What it wrote into the lock file: its process id.
        holder: String,
    },
    /// A file of another version than this program reads.
    Version {
        file: String,
        found: u64,
        known: u64,
    },
    /// A limit on series refused a new one: which limit, what it counts, and the series.
    Cardinality {
        message: String,
    },
    /// A write that stands in memory is not as safe as its mode promises.
    NotDurable {
        message: String,
    },
}

impl Error {
    pub fn parse(text: &str, span: Span, message: impl Into<String>) -> Error {
        let (line, column) = span.line_column(text);
        Error::Parse { message: message.into(), span, line, column, remedy: None }
    }

    pub fn with_remedy(mut self, text: impl Into<String>) -> Error {
        if let Error::Parse { remedy, .. } = &mut self {
            *remedy = Some(text.into());
        }
        self
    }

    pub fn execution(message: impl Into<String>) -> Error {
        Error::Execution { message: message.into() }
    }

    /// `value` is shortened to 80 characters.
    pub fn input(input: &str, value: &str, message: impl Into<String>, remedy: &str) -> Error {
        let mut value: String = value.to_owned();
        if value.chars().count() > 80 {
            value = value.chars().take(79).chain(['…']).collect();
        }
        Error::Input { input: input.to_owned(), value, message: message.into(), remedy: remedy.to_owned() }
    }

    pub fn corruption(what: &str, offset: usize, message: impl Into<String>) -> Error {
        Error::Corruption { what: what.to_owned(), offset: offset as u64, message: message.into() }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Parse { message, line, column, remedy, .. } => {
                write!(f, "{line}:{column}: parse error: {message}")?;
                match remedy {
                    Some(r) => write!(f, " ({r})"),
                    None => Ok(()),
                }
            }
            Error::Execution { message } => f.write_str(message),
            Error::Input { input, value, message, remedy } => {
                write!(f, "{input} {value:?}: {message}")?;
                if remedy.is_empty() { Ok(()) } else { write!(f, "; {remedy}") }
            }
            Error::Limit { what, limit, needed, remedy } => {
                write!(f, "limit reached: {what}: {needed} needed, {limit} allowed; {remedy}")
            }
            Error::Costly { what, limit, needed, part, remedy } => {
                write!(f, "limit reached: {what}: {needed} needed, {limit} allowed; {part}; {remedy}")
            }
            Error::Timeout { timeout_ms } => {
                write!(f, "query timed out after {timeout_ms} ms; narrow it or raise its timeout")
            }
            Error::Cancelled => f.write_str("query was cancelled"),
            Error::Killed => f.write_str("query was killed; see who called kill, or ask for less"),
            Error::Busy { class, running, waiting } => {
                write!(
                    f,
                    "too many queries: {running} of class {class} run and {waiting} wait; try again later, or raise \
                     {class}_concurrency"
                )
            }
            Error::Memory { step, held, limit } => write!(
                f,
                "memory limit: {held} of {limit} bytes are held, so {} are refused; try again in {} s, or raise \
                 memory_limit",
                step.plural(),
                step.retry_after_s()
            ),
            Error::Corruption { what, offset, message } => {
                write!(f, "{what} is corrupt at byte {offset}: {message}")
            }
            Error::Storage { file, message, remedy } => write!(f, "{file}: {message}; {remedy}"),
            Error::Locked { path, holder } => write!(
                f,
                "{path} is open in another process (pid {holder}); stop that one, or give another directory"
            ),
            Error::Version { file, found, known } => write!(
                f,
                "{file} has version {found} of the format, and this program reads version {known}; open it with the \
                 program that wrote it"
            ),
            Error::Cardinality { message } => {
                write!(f, "{message}; drop the label that makes too many series, or raise the limit")
            }
            Error::NotDurable { message } => write!(
                f,
                "the samples stand in memory and are answered, but are not durable: {message}; send them again later"
            ),
        }
    }
}

impl std::error::Error for Error {}
