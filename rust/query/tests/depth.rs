//! Whatever the parser lets through can be evaluated on the smallest stack that a thread has.
#![allow(clippy::unwrap_used)]

use metricsdb_model::bounds::{NESTING_MAX, TREE_HEIGHT_MAX};
use metricsdb_model::{Budget, Labels, Predicate, Result, Samples, SeriesSet, Source, TimeRange};
use metricsdb_query::exec::{Params, alone, evaluate};
use metricsdb_query::plan::{estimate, nodes};
use metricsdb_query::syntax::parse;

/// One series of any name, with the value 1 at every time.
struct Constant;

impl Source for Constant {
    fn select<'a>(&'a self, _: &Predicate, _: TimeRange, _: &Budget) -> Result<Box<dyn SeriesSet + 'a>> {
        Ok(Box::new(Constant))
    }
}

impl SeriesSet for Constant {
    fn len(&self) -> usize {
        1
    }

    fn labels(&self, _: usize) -> Labels {
        Labels::from_pairs([("__name__", "x")]).unwrap()
    }

    fn read(&self, _: usize, range: TimeRange, out: &mut Samples) -> Result<()> {
        out.push(range.end, 1.0);
        Ok(())
    }
}

/// Threads have 2 MB at least; code that is not optimized takes twice the stack.
const STACK_BYTES: usize = if cfg!(debug_assertions) { 4 << 20 } else { 2 << 20 };

fn evaluates(text: String) {
    let run = move || {
        let expr = parse(&text).unwrap();
        let params = Params::range(&text, 0, 60_000, 30_000);
        let answer = evaluate(&expr, &params, &Constant, &Budget::unlimited());
        assert!(answer.is_ok(), "{answer:?}");
        let _ = alone(&expr, &text, 30_000, 300_000);
        let bounds = estimate(&expr, &params, &Constant, &Budget::unlimited());
        assert_eq!(bounds.map(|b| b.nodes.len()), Ok(nodes(&expr).len()), "{text}");
    };
    std::thread::Builder::new().stack_size(STACK_BYTES).spawn(run).unwrap().join().unwrap();
}

#[test]
fn the_deepest_and_the_longest_expressions_are_evaluated() {
    let deepest = NESTING_MAX - 1;
    for (open, inner, close) in [
        ("(", "x", ")"),
        ("-", "x", ""),
        ("abs(", "x", ")"),
        ("sum(", "x", ")"),
        ("topk(1, ", "x", ")"),
        ("x or ", "x", ""),
        ("1 ^ ", "1", ""),
        ("absent(", "x", ")"),
        ("range_sum(", "x", ")"),
        ("outliersk(1, ", "x", ")"),
        ("WITH (a = x) ", "x", ""),
        ("x default ", "x", ""),
        ("label_replace(", "x", ", \"a\", \"b\", \"c\", \"d\")"),
    ] {
        let levels = if matches!(open, "x or " | "x default ") { 500 } else { deepest };
        evaluates(open.repeat(levels) + inner + &close.repeat(levels));
    }
    for link in [" + x", " or x", " + 1", " > bool x", " and on () x"] {
        evaluates("x".to_owned() + &link.repeat(TREE_HEIGHT_MAX - 2));
    }
    // A template, its argument and the parameter's value are a level each.
    let templates = deepest / 3 - 1;
    let each = |i: usize| format!(", f{i}(q) = abs(f{}(q))", i - 1);
    let chain: String = (1..templates).map(each).collect();
    evaluates(format!("WITH (f0(q) = q{chain}) f{}(x)", templates - 1));
    evaluates("x and (".repeat(deepest / 2) + "x" + &")".repeat(deepest / 2));
}
