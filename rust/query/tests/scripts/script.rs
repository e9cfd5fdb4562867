//! A script as commands.

use metricsdb_model::Labels;
use metricsdb_model::regex::Regex;

use crate::notation::{self, Item};

pub enum Command {
    Load(Load),
    Clear,
    Eval(Box<Eval>),
}

pub struct Load {
    pub step: i64,
    pub series: Vec<(Labels, Vec<Item>)>,
    /// Start times of a series' samples, as offsets from their own times in milliseconds.
    pub starts: Vec<(Labels, Vec<Option<i64>>)>,
    /// Classic histograms are also stored as native ones.
    pub with_nhcb: bool,
}

#[derive(Default)]
pub struct Eval {
    pub line: usize,
    pub query: String,
    pub start: i64,
    pub end: i64,
    /// `None`: an instant query.
    pub step: Option<i64>,
    pub series: Vec<(Labels, Vec<Item>)>,
    pub scalar: Option<f64>,
    pub string: Option<String>,
    /// Start and step of an expected range vector.
    pub matrix: Option<(i64, i64)>,
    pub ordered: bool,
    pub fail: Option<Vec<Pattern>>,
    pub warn: Expected,
    pub info: Expected,
}

/// What is expected of one kind of annotation.
#[derive(Default)]
pub enum Expected {
    #[default]
    Anything,
    None,
    Some(Vec<Pattern>),
}

pub enum Pattern {
    Any,
    Text(String),
    Search(Regex),
}

impl Pattern {
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Pattern::Any => true,
            Pattern::Text(wanted) => wanted == text,
            Pattern::Search(regex) => regex.is_match(text),
        }
    }

    fn parse(text: &str) -> Result<Pattern, String> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Pattern::Any);
        }
        if let Some(message) = text.strip_prefix("msg:") {
            return Ok(Pattern::Text(message.trim().to_owned()));
        }
        let search = text.strip_prefix("regex:").ok_or(format!("expectation {text:?}"))?;
        let regex = Regex::new(&format!("(?s:.*)(?:{})(?s:.*)", search.trim())).map_err(|e| e.to_string())?;
        Ok(Pattern::Search(regex))
    }
}

pub fn parse(text: &str) -> Result<Vec<Command>, String> {
    let lines: Vec<&str> =
        text.lines().map(str::trim).map(|l| if l.starts_with('#') { "" } else { l }).collect();
    let mut commands = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        if lines[at].is_empty() {
            at += 1;
            continue;
        }
        if lines[at] == "clear" {
            commands.push(Command::Clear);
            at += 1;
            continue;
        }
        let end = (at..lines.len()).find(|&i| lines[i].is_empty()).unwrap_or(lines.len());
        let command = command(lines[at], &lines[at + 1..end], at + 1);
        commands.push(command.map_err(|e| format!("line {}: {e}", at + 1))?);
        at = end;
    }
    Ok(commands)
}

fn command(first: &str, block: &[&str], line: usize) -> Result<Command, String> {
    let (word, rest) = first.split_once(char::is_whitespace).unwrap_or((first, ""));
    match word {
        "load" | "load_with_nhcb" => load(rest.trim(), block, word == "load_with_nhcb"),
        "eval" | "eval_fail" | "eval_warn" | "eval_info" | "eval_ordered" => {
            let mut eval = header(rest.trim())?;
            eval.line = line;
            match word {
                "eval_fail" => eval.fail = Some(Vec::new()),
                "eval_warn" => eval.warn = Expected::Some(vec![Pattern::Any]),
                "eval_info" => eval.info = Expected::Some(vec![Pattern::Any]),
                "eval_ordered" => eval.ordered = true,
                _ => {}
            }
            for text in block {
                expectation(text, &mut eval)?;
            }
            Ok(Command::Eval(Box::new(eval)))
        }
        _ => Err(format!("unknown command {word:?}")),
    }
}

fn load(step: &str, block: &[&str], with_nhcb: bool) -> Result<Command, String> {
    let mut load =
        Load { step: notation::duration(step)?, series: Vec::new(), starts: Vec::new(), with_nhcb };
    for line in block {
        let (labels, rest) = notation::series(line)?;
        if let Some(offsets) = rest.strip_prefix("@st") {
            load.starts.push((labels, notation::starts(offsets)?));
            continue;
        }
        let values = notation::values(rest)?;
        load.series.retain(|(known, _)| *known != labels);
        load.series.push((labels, values));
    }
    Ok(Command::Load(load))
}

fn header(text: &str) -> Result<Eval, String> {
    let mut words = text.splitn(4, char::is_whitespace);
    let mut eval = Eval::default();
    match (words.next(), words.next()) {
        (Some("instant"), Some("at")) => {
            let at = notation::duration(words.next().ok_or("no time")?)?;
            (eval.start, eval.end) = (at, at);
            eval.query = words.next().unwrap_or("").trim().to_owned();
        }
        (Some("range"), Some("from")) => {
            let mut words = text.splitn(8, char::is_whitespace).skip(2);
            eval.start = notation::duration(words.next().ok_or("no start")?)?;
            eval.end = notation::duration(words.nth(1).ok_or("no end")?)?;
            eval.step = Some(notation::duration(words.nth(1).ok_or("no step")?)?);
            eval.query = words.next().unwrap_or("").trim().to_owned();
        }
        _ => return Err(format!("eval {text:?}")),
    }
    Ok(eval)
}

fn expectation(line: &str, eval: &mut Eval) -> Result<(), String> {
    if let Some(message) = line.strip_prefix("expected_fail_message ") {
        eval.fail.get_or_insert_default().push(Pattern::Text(message.trim().to_owned()));
        return Ok(());
    }
    if let Some(search) = line.strip_prefix("expected_fail_regexp ") {
        eval.fail.get_or_insert_default().push(Pattern::parse(&format!("regex:{search}"))?);
        return Ok(());
    }
    if let Some(rest) = line.strip_prefix("expect ") {
        return expect(rest.trim(), eval);
    }
    if let Ok([Item::Float(value)]) = notation::values(line).as_deref() {
        eval.scalar = Some(*value);
        return Ok(());
    }
    let (labels, rest) = notation::series(line)?;
    eval.series.push((labels, notation::values(rest)?));
    Ok(())
}

fn expect(text: &str, eval: &mut Eval) -> Result<(), String> {
    let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    match word {
        "fail" => eval.fail.get_or_insert_default().push(Pattern::parse(rest)?),
        "ordered" => eval.ordered = true,
        "no_warn" => eval.warn = Expected::None,
        "no_info" => eval.info = Expected::None,
        "warn" | "info" => {
            let list = if word == "warn" { &mut eval.warn } else { &mut eval.info };
            let pattern = Pattern::parse(rest)?;
            match list {
                Expected::Some(patterns) => patterns.push(pattern),
                other => *other = Expected::Some(vec![pattern]),
            }
        }
        "string" => eval.string = Some(notation::string(rest.trim())?),
        "range" => {
            let words: Vec<&str> = rest.split_whitespace().collect();
            let ["vector", "from", start, "to", _, "step", step] = words[..] else {
                return Err(format!("expect {text:?}"));
            };
            eval.matrix = Some((notation::duration(start)?, notation::duration(step)?));
        }
        _ => return Err(format!("expect {text:?}")),
    }
    Ok(())
}
