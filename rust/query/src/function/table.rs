//! Every function, declared once: the parser, the type check, the evaluator and the docs read this.

use crate::syntax::tree::ValueType::{self, Matrix as M, Scalar as S, String as Str, Vector as V};

/// One function of the language.
#[derive(Debug)]
pub struct Function {
    pub name: &'static str,
    /// Types of the arguments. With `optional` = n > 0 the last n may be left out; with `repeats` the last
    /// type may stand any number of times (also not at all).
    pub args: &'static [ValueType],
    pub optional: u8,
    pub repeats: bool,
    pub returns: ValueType,
    pub experimental: bool,
    /// The metric name stays on the result; elsewhere it is dropped (at the end of the query).
    pub keeps_name: bool,
    /// Only makes sense on counters: a metric name that doesn't look like one is remarked on.
    pub wants_counter: bool,
}

impl PartialEq for Function {
    fn eq(&self, other: &Function) -> bool {
        self.name == other.name
    }
}

impl Function {
    /// The fewest arguments of a call.
    pub fn args_min(&self) -> usize {
        self.args.len() - self.optional as usize - usize::from(self.repeats)
    }

    /// The most arguments of a call; `None`: any number.
    pub fn args_max(&self) -> Option<usize> {
        if self.repeats { None } else { Some(self.args.len()) }
    }

    /// Type of the i-th argument; `None` past the last one.
    pub fn arg_type(&self, i: usize) -> Option<ValueType> {
        match self.args.get(i) {
            None if self.repeats => self.args.last().copied(),
            found => found.copied(),
        }
    }

    /// Where the range or instant vector stands among the arguments.
    pub fn vector_arg(&self) -> Option<usize> {
        self.args.iter().position(|t| matches!(t, V | M))
    }

    const fn optional(mut self, count: u8) -> Function {
        self.optional = count;
        self
    }

    const fn repeats(mut self) -> Function {
        self.repeats = true;
        self
    }

    const fn experimental(mut self) -> Function {
        self.experimental = true;
        self
    }

    const fn keeps_name(mut self) -> Function {
        self.keeps_name = true;
        self
    }

    const fn wants_counter(mut self) -> Function {
        self.wants_counter = true;
        self
    }
}

/// The function of this name; names are case-sensitive.
pub fn lookup(name: &str) -> Option<&'static Function> {
    FUNCTIONS.binary_search_by(|f| f.name.cmp(name)).ok().map(|i| &FUNCTIONS[i])
}

const fn row(name: &'static str, args: &'static [ValueType], returns: ValueType) -> Function {
    Function {
        name,
        args,
        optional: 0,
        repeats: false,
        returns,
        experimental: false,
        keeps_name: false,
        wants_counter: false,
    }
}

/// Sorted by name.
pub static FUNCTIONS: &[Function] = &[
    row("abs", &[V], V),
    row("absent", &[V], V),
    row("absent_over_time", &[M], V),
    row("acos", &[V], V),
    row("acosh", &[V], V),
    row("asin", &[V], V),
    row("asinh", &[V], V),
    row("atan", &[V], V),
    row("atanh", &[V], V),
    row("avg_over_time", &[M], V),
    row("ceil", &[V], V),
    row("changes", &[M], V),
    row("clamp", &[V, S, S], V),
    row("clamp_max", &[V, S], V),
    row("clamp_min", &[V, S], V),
    row("cos", &[V], V),
    row("cosh", &[V], V),
    row("count_over_time", &[M], V),
    row("day_of_month", &[V], V).optional(1),
    row("day_of_week", &[V], V).optional(1),
    row("day_of_year", &[V], V).optional(1),
    row("days_in_month", &[V], V).optional(1),
    row("deg", &[V], V),
    row("delta", &[M], V),
    row("deriv", &[M], V),
    row("double_exponential_smoothing", &[M, S, S], V).experimental(),
    row("end", &[], S).experimental(),
    row("exp", &[V], V),
    row("first_over_time", &[M], V).experimental().keeps_name(),
    row("floor", &[V], V),
    row("histogram_avg", &[V], V),
    row("histogram_count", &[V], V),
    row("histogram_fraction", &[S, S, V], V),
    row("histogram_quantile", &[S, V], V),
    row("histogram_quantiles", &[V, Str, S, S, S, S, S, S, S, S, S, S], V).optional(9).experimental(),
    row("histogram_stddev", &[V], V),
    row("histogram_stdvar", &[V], V),
    row("histogram_sum", &[V], V),
    row("hour", &[V], V).optional(1),
    row("idelta", &[M], V),
    row("increase", &[M], V).wants_counter(),
    row("info", &[V, V], V).optional(1).experimental().keeps_name(),
    row("irate", &[M], V),
    row("label_join", &[V, Str, Str, Str], V).repeats().keeps_name(),
    row("label_replace", &[V, Str, Str, Str, Str], V).keeps_name(),
    row("last_over_time", &[M], V).keeps_name(),
    row("ln", &[V], V),
    row("log10", &[V], V),
    row("log2", &[V], V),
    row("mad_over_time", &[M], V).experimental(),
    row("max_of", &[S, S], S).experimental(),
    row("max_over_time", &[M], V),
    row("min_of", &[S, S], S).experimental(),
    row("min_over_time", &[M], V),
    row("minute", &[V], V).optional(1),
    row("month", &[V], V).optional(1),
    row("pi", &[], S),
    row("predict_linear", &[M, S], V),
    row("present_over_time", &[M], V),
    row("quantile_over_time", &[S, M], V),
    row("rad", &[V], V),
    row("range", &[], S).experimental(),
    row("rate", &[M], V).wants_counter(),
    row("resets", &[M], V),
    row("round", &[V, S], V).optional(1),
    row("scalar", &[V], S),
    row("sgn", &[V], V),
    row("sin", &[V], V),
    row("sinh", &[V], V),
    row("sort", &[V], V).keeps_name(),
    row("sort_by_label", &[V, Str], V).repeats().experimental().keeps_name(),
    row("sort_by_label_desc", &[V, Str], V).repeats().experimental().keeps_name(),
    row("sort_desc", &[V], V).keeps_name(),
    row("sqrt", &[V], V),
    row("start", &[], S).experimental(),
    row("start_timestamp", &[V], V).experimental(),
    row("stddev_over_time", &[M], V),
    row("stdvar_over_time", &[M], V),
    row("step", &[], S).experimental(),
    row("sum_over_time", &[M], V),
    row("tan", &[V], V),
    row("tanh", &[V], V),
    row("time", &[], S),
    row("timestamp", &[V], V),
    row("ts_of_first_over_time", &[M], V).experimental(),
    row("ts_of_last_over_time", &[M], V).experimental(),
    row("ts_of_max_over_time", &[M], V).experimental(),
    row("ts_of_min_over_time", &[M], V).experimental(),
    row("vector", &[S], V),
    row("year", &[V], V).optional(1),
];

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn every_row_is_found_by_its_name() {
        assert!(FUNCTIONS.is_sorted_by(|a, b| a.name < b.name));
        for f in FUNCTIONS {
            assert!(std::ptr::eq(lookup(f.name).unwrap(), f));
        }
        assert!(lookup("Rate").is_none());
        assert!(lookup("").is_none());
    }

    #[test]
    fn argument_counts_follow_the_row() {
        let counts = |name: &str| (lookup(name).unwrap().args_min(), lookup(name).unwrap().args_max());
        assert_eq!(counts("time"), (0, Some(0)));
        assert_eq!(counts("year"), (0, Some(1)));
        assert_eq!(counts("round"), (1, Some(2)));
        assert_eq!(counts("label_join"), (3, None));
        assert_eq!(counts("sort_by_label"), (1, None));
        assert_eq!(counts("histogram_quantiles"), (3, Some(12)));
        let join = lookup("label_join").unwrap();
        assert_eq!(join.arg_type(9), Some(ValueType::String));
        assert_eq!(lookup("abs").unwrap().arg_type(1), None);
    }
}
