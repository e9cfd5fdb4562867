//! Rule zero against the peer itself: what Prometheus accepts is accepted, and both formatters print the
//! same. Skipped, with a message, where no `prometheus` is installed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::cell::RefCell;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use metricsdb_query::syntax::{parse, pretty};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// A Prometheus without data, and a connection to it.
struct Prometheus {
    child: Child,
    connection: RefCell<BufReader<TcpStream>>,
    folder: PathBuf,
}

impl Prometheus {
    fn start() -> Option<Prometheus> {
        let folder = std::env::temp_dir().join(format!("metricsdb-syntax-peer-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("prometheus.yml"), "global: {}\n").unwrap();
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let spawned = Command::new("prometheus")
            .arg(format!("--config.file={}", folder.join("prometheus.yml").display()))
            .arg(format!("--storage.tsdb.path={}", folder.join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn();
        let Ok(mut child) = spawned else {
            eprintln!("skipped: no prometheus is installed");
            return None;
        };
        let mut log = BufReader::new(child.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("ready to receive web requests") {
            line.clear();
            assert!(log.read_line(&mut line).unwrap() > 0, "prometheus ended before it was ready");
        }
        // Whoever writes a log that nobody reads stops one day.
        std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        Some(Prometheus { child, connection: RefCell::new(BufReader::new(stream)), folder })
    }

    /// The formatted query, or the peer's refusal.
    fn format(&self, query: &str) -> Result<String, String> {
        let encoded: String = query.bytes().map(|b| format!("%{b:02X}")).collect();
        let body = format!("query={encoded}");
        let mut connection = self.connection.borrow_mut();
        let request = format!(
            "POST /api/v1/format_query HTTP/1.1\r\nHost: peer\r\nContent-Length: {}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}",
            body.len()
        );
        connection.get_mut().write_all(request.as_bytes()).unwrap();
        let mut length = 0;
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            connection.read_line(&mut line).unwrap();
            if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut answer = vec![0; length];
        connection.read_exact(&mut answer).unwrap();
        let answer = String::from_utf8(answer).unwrap();
        let string = |key: &str| unescaped(answer.split_once(&format!("\"{key}\":\"")).expect("a string").1);
        if answer.contains("\"status\":\"success\"") { Ok(string("data")) } else { Err(string("error")) }
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A JSON string up to its closing quote.
fn unescaped(text: &str) -> String {
    let mut out = String::new();
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => break,
            '\\' => match chars.next().unwrap() {
                'n' => out.push('\n'),
                't' => out.push('\t'),
                'r' => out.push('\r'),
                'u' => {
                    let code: String = chars.by_ref().take(4).collect();
                    out.push(char::from_u32(u32::from_str_radix(&code, 16).unwrap()).unwrap());
                }
                other => out.push(other),
            },
            c => out.push(c),
        }
    }
    out
}

/// Where the two disagree on a text that the peer accepts. The one difference that is allowed: an infinite base of a
/// power, which the peer prints with a plus that would bind the whole power if it were read again.
fn disagreement(peer: &Prometheus, query: &str) -> Option<String> {
    let theirs = peer.format(query).ok()?;
    let same = |ours: &str| {
        let plain = |text: &str| text.replace("+Inf", "Inf");
        ours == theirs || (query.contains('^') && plain(ours) == plain(&theirs))
    };
    match parse(query) {
        Ok(expr) if same(&pretty(&expr)) => None,
        Ok(expr) => Some(format!("{query:?}\n  peer {theirs:?}\n  ours {:?}", pretty(&expr))),
        Err(error) => Some(format!("{query:?}\n  peer {theirs:?}\n  ours {error}")),
    }
}

/// An expression of PromQL 2, often with a fault in it.
fn text() -> impl Strategy<Value = String> {
    let leaf = prop::sample::select(vec![
        "x",
        "sum",
        "offset",
        "a:b",
        "x{a=\"1\"}",
        "x{b='2', a!~`c.*`,}",
        "{__name__=~\"x.+\",or=\"and\"}",
        "1",
        "0x1F",
        "017",
        ".5",
        "1e-7",
        "123456789",
        "inf",
        "\"s\\n\"",
        "time()",
        "x[5m]",
        "x[90m] offset 1d",
        "x @ 1.5 offset -2w",
        "x[1h:5m] @ end()",
        "start",
        "BY",
        "{a=\"\"}",
        "x[0s]",
        "x offset",
    ]);
    leaf.prop_map(String::from).prop_recursive(4, 24, 3, |inner| {
        let op = prop::sample::select(vec![
            "+",
            "-",
            "*",
            "/",
            "%",
            "^",
            "atan2",
            "==",
            "!=",
            ">",
            "<= bool",
            "> bool",
            "and",
            "or",
            "UNLESS",
            "+ on(a)",
            "* ignoring(a, b,) group_left",
            "/ on() group_right(c)",
            "and on(x)",
            "+ bool",
            "- group_left",
        ]);
        let call = prop::sample::select(vec![
            "abs",
            "rate",
            "sum",
            "SUM by(a)",
            "topk without (b)",
            "count_values",
            "label_replace",
            "round",
            "vector",
            "scalar",
            "quantile by ()",
            "absent",
            "max_over_time",
            "-",
            "+",
            "clamp",
            "min",
            "histogram_quantile",
        ]);
        let suffix = prop::sample::select(vec![
            "[5m]",
            "[5m:]",
            "[1h:1m]",
            " offset 5m",
            " @ 12",
            " by (c)",
            " without()",
            ")",
            " #c\n",
            "[5m",
            " @ start()",
        ]);
        prop_oneof![
            3 => (inner.clone(), op, inner.clone()).prop_map(|(a, op, b)| format!("{a} {op} {b}")),
            2 => inner.clone().prop_map(|a| format!("({a})")),
            3 => (call.clone(), inner.clone()).prop_map(|(f, a)| format!("{f}({a})")),
            2 => (call, inner.clone(), inner.clone()).prop_map(|(f, a, b)| format!("{f}({a}, {b})")),
            1 => inner.clone().prop_map(|a| format!("-{a}")),
            2 => (inner, suffix).prop_map(|(a, s)| format!("{a}{s}")),
        ]
    })
}

#[test]
fn what_prometheus_accepts_means_and_prints_the_same() {
    let Some(peer) = Prometheus::start() else { return };
    assert_eq!(peer.format("foo   +bar").as_deref(), Ok("foo + bar"));
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 1500,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let accepted = RefCell::new(0);
    let outcome = runner.run(&text(), |query| {
        let found = disagreement(&peer, &query);
        prop_assert!(found.is_none(), "{}", found.unwrap_or_default());
        *accepted.borrow_mut() += usize::from(parse(&query).is_ok());
        Ok(())
    });
    if let Err(failure) = outcome {
        panic!("{failure}");
    }
    assert!(accepted.into_inner() > 150, "hardly anything was valid");
}
