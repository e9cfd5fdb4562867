//! Every function, declared once: the parser, the type check, the evaluator and the docs read this.

use crate::function::rate::Extrapolated;
use crate::function::sliding::Sliding;
use crate::function::{GridFn, Kernel, Special, date, forecast, math, over_time, rate, rollup, whole_range};
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
    /// From MetricsQL: PromQL has no such function.
    pub metricsql: bool,
    /// The metric name stays on the result; elsewhere it is dropped (at the end of the query).
    pub keeps_name: bool,
    /// Only makes sense on counters: a metric name that doesn't look like one is remarked on.
    pub wants_counter: bool,
    /// Looks at the start timestamps of samples.
    pub reads_starts: bool,
    /// Looks at no times of a window, neither those of samples nor its ends.
    pub of_values: bool,
    pub kernel: Kernel,
    /// What neighbouring windows of a `Kernel::Window` share.
    pub sliding: Sliding,
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

    /// Whether `keep_metric_names` can follow: the result has one series for one of the argument's.
    pub fn can_keep_name(&self) -> bool {
        let special = matches!(self.kernel, Kernel::Special(_));
        self.returns == V && (self.keeps_name || !special)
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

    const fn sliding(mut self, sliding: Sliding) -> Function {
        self.sliding = sliding;
        self
    }

    const fn reads_starts(mut self) -> Function {
        self.reads_starts = true;
        self
    }

    const fn of_values(mut self) -> Function {
        self.of_values = true;
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

const fn row(name: &'static str, args: &'static [ValueType], returns: ValueType, kernel: Kernel) -> Function {
    Function {
        name,
        args,
        optional: 0,
        repeats: false,
        returns,
        experimental: false,
        metricsql: false,
        keeps_name: false,
        wants_counter: false,
        reads_starts: false,
        of_values: false,
        kernel,
        sliding: Sliding::None,
    }
}

const fn special(
    name: &'static str,
    args: &'static [ValueType],
    returns: ValueType,
    special: Special,
) -> Function {
    row(name, args, returns, Kernel::Special(special))
}

/// Over all steps of the query.
const fn over_range(name: &'static str, args: &'static [ValueType], kernel: GridFn) -> Function {
    let mut function = row(name, args, V, Kernel::Grid(kernel)).keeps_name();
    function.metricsql = true;
    function
}

const fn rollup(name: &'static str, parts: &'static [rollup::Part]) -> Function {
    let mut function = row(name, &[M, Str], V, Kernel::Rollup(parts)).optional(1);
    function.metricsql = true;
    function
}

/// Sorted by name.
pub static FUNCTIONS: &[Function] = &[
    row("abs", &[V], V, Kernel::Map(math::abs)),
    special("absent", &[V], V, Special::Absent),
    special("absent_over_time", &[M], V, Special::AbsentOverTime),
    row("acos", &[V], V, Kernel::Map(math::acos)),
    row("acosh", &[V], V, Kernel::Map(math::acosh)),
    row("asin", &[V], V, Kernel::Map(math::asin)),
    row("asinh", &[V], V, Kernel::Map(math::asinh)),
    row("atan", &[V], V, Kernel::Map(math::atan)),
    row("atanh", &[V], V, Kernel::Map(math::atanh)),
    row("avg_over_time", &[M], V, Kernel::Window(over_time::avg)).of_values().sliding(Sliding::Avg),
    row("ceil", &[V], V, Kernel::Map(math::ceil)),
    row("changes", &[M], V, Kernel::Window(rate::changes)).of_values().sliding(Sliding::Changes),
    row("clamp", &[V, S, S], V, Kernel::Map(math::clamp)),
    row("clamp_max", &[V, S], V, Kernel::Map(math::clamp_max)),
    row("clamp_min", &[V, S], V, Kernel::Map(math::clamp_min)),
    row("cos", &[V], V, Kernel::Map(math::cos)),
    row("cosh", &[V], V, Kernel::Map(math::cosh)),
    row("count_over_time", &[M], V, Kernel::Window(over_time::count)).of_values(),
    row("day_of_month", &[V], V, Kernel::Map(date::day_of_month)).optional(1),
    row("day_of_week", &[V], V, Kernel::Map(date::day_of_week)).optional(1),
    row("day_of_year", &[V], V, Kernel::Map(date::day_of_year)).optional(1),
    row("days_in_month", &[V], V, Kernel::Map(date::days_in_month)).optional(1),
    row("deg", &[V], V, Kernel::Map(math::deg)),
    row("delta", &[M], V, Kernel::Window(rate::delta)).sliding(Sliding::Extrapolated(Extrapolated::Delta)),
    row("deriv", &[M], V, Kernel::Window(forecast::deriv)),
    row(
        "double_exponential_smoothing",
        &[M, S, S],
        V,
        Kernel::Window(forecast::double_exponential_smoothing),
    )
    .experimental(),
    special("end", &[], S, Special::End).experimental(),
    row("exp", &[V], V, Kernel::Map(math::exp)),
    row("first_over_time", &[M], V, Kernel::Window(over_time::first)).of_values().experimental().keeps_name(),
    row("floor", &[V], V, Kernel::Map(math::floor)),
    special("histogram_avg", &[V], V, Special::HistogramNative),
    special("histogram_count", &[V], V, Special::HistogramNative),
    special("histogram_fraction", &[S, S, V], V, Special::HistogramFraction),
    special("histogram_quantile", &[S, V], V, Special::HistogramQuantile),
    special("histogram_quantiles", &[V, Str, S, S, S, S, S, S, S, S, S, S], V, Special::HistogramQuantiles)
        .optional(9)
        .experimental(),
    special("histogram_stddev", &[V], V, Special::HistogramNative),
    special("histogram_stdvar", &[V], V, Special::HistogramNative),
    special("histogram_sum", &[V], V, Special::HistogramNative),
    row("hour", &[V], V, Kernel::Map(date::hour)).optional(1),
    row("idelta", &[M], V, Kernel::Window(rate::idelta)),
    row("increase", &[M], V, Kernel::Window(rate::increase))
        .wants_counter()
        .reads_starts()
        .sliding(Sliding::Extrapolated(Extrapolated::Increase)),
    special("info", &[V, V], V, Special::Info).optional(1).experimental().keeps_name(),
    row("irate", &[M], V, Kernel::Window(rate::irate)).reads_starts(),
    special("label_join", &[V, Str, Str, Str], V, Special::LabelJoin).repeats().keeps_name(),
    special("label_replace", &[V, Str, Str, Str, Str], V, Special::LabelReplace).keeps_name(),
    row("last_over_time", &[M], V, Kernel::Window(over_time::last)).of_values().keeps_name(),
    row("ln", &[V], V, Kernel::Map(math::ln)),
    row("log10", &[V], V, Kernel::Map(math::log10)),
    row("log2", &[V], V, Kernel::Map(math::log2)),
    row("mad_over_time", &[M], V, Kernel::Window(over_time::mad)).of_values().experimental(),
    row("max_of", &[S, S], S, Kernel::Map(math::max_of)).experimental(),
    row("max_over_time", &[M], V, Kernel::Window(over_time::max)).of_values().sliding(Sliding::Max),
    row("min_of", &[S, S], S, Kernel::Map(math::min_of)).experimental(),
    row("min_over_time", &[M], V, Kernel::Window(over_time::min)).of_values().sliding(Sliding::Min),
    row("minute", &[V], V, Kernel::Map(date::minute)).optional(1),
    row("month", &[V], V, Kernel::Map(date::month)).optional(1),
    special("pi", &[], S, Special::Pi),
    row("predict_linear", &[M, S], V, Kernel::Window(forecast::predict_linear)),
    row("present_over_time", &[M], V, Kernel::Window(over_time::present)).of_values(),
    row("quantile_over_time", &[S, M], V, Kernel::Window(over_time::quantile)).of_values(),
    row("rad", &[V], V, Kernel::Map(math::rad)),
    special("range", &[], S, Special::Range).experimental(),
    over_range("range_avg", &[V], whole_range::avg),
    over_range("range_first", &[V], whole_range::first),
    over_range("range_last", &[V], whole_range::last),
    over_range("range_linear_regression", &[V], whole_range::linear_regression),
    over_range("range_mad", &[V], whole_range::mad),
    over_range("range_max", &[V], whole_range::max),
    over_range("range_median", &[V], whole_range::median),
    over_range("range_min", &[V], whole_range::min),
    over_range("range_normalize", &[V, V], whole_range::normalize).repeats(),
    over_range("range_quantile", &[S, V], whole_range::quantile),
    over_range("range_stddev", &[V], whole_range::stddev),
    over_range("range_stdvar", &[V], whole_range::stdvar),
    over_range("range_sum", &[V], whole_range::sum),
    over_range("range_trim_outliers", &[S, V], whole_range::trim_outliers),
    over_range("range_trim_spikes", &[S, V], whole_range::trim_spikes),
    over_range("range_trim_zscore", &[S, V], whole_range::trim_zscore),
    over_range("range_zscore", &[V], whole_range::zscore),
    row("rate", &[M], V, Kernel::Window(rate::rate))
        .wants_counter()
        .reads_starts()
        .sliding(Sliding::Extrapolated(Extrapolated::Rate)),
    row("resets", &[M], V, Kernel::Window(rate::resets)).reads_starts().sliding(Sliding::Resets),
    rollup("rollup", &rollup::VALUES).keeps_name(),
    rollup("rollup_candlestick", &rollup::CANDLESTICK).keeps_name(),
    rollup("rollup_delta", &rollup::DELTA),
    rollup("rollup_deriv", &rollup::DERIV),
    rollup("rollup_increase", &rollup::INCREASE).wants_counter(),
    rollup("rollup_rate", &rollup::RATE).wants_counter(),
    rollup("rollup_scrape_interval", &rollup::SCRAPE_INTERVAL),
    row("round", &[V, S], V, Kernel::Map(math::round)).optional(1),
    special("scalar", &[V], S, Special::Scalar),
    row("sgn", &[V], V, Kernel::Map(math::sgn)),
    row("sin", &[V], V, Kernel::Map(math::sin)),
    row("sinh", &[V], V, Kernel::Map(math::sinh)),
    special("sort", &[V], V, Special::Sort).keeps_name(),
    special("sort_by_label", &[V, Str], V, Special::SortByLabel).repeats().experimental().keeps_name(),
    special("sort_by_label_desc", &[V, Str], V, Special::SortByLabelDesc)
        .repeats()
        .experimental()
        .keeps_name(),
    special("sort_desc", &[V], V, Special::SortDesc).keeps_name(),
    row("sqrt", &[V], V, Kernel::Map(math::sqrt)),
    special("start", &[], S, Special::Start).experimental(),
    special("start_timestamp", &[V], V, Special::StartTimestamp).experimental(),
    row("stddev_over_time", &[M], V, Kernel::Window(over_time::stddev)).of_values(),
    row("stdvar_over_time", &[M], V, Kernel::Window(over_time::stdvar)).of_values(),
    special("step", &[], S, Special::Step).experimental(),
    row("sum_over_time", &[M], V, Kernel::Window(over_time::sum)).of_values().sliding(Sliding::Sum),
    row("tan", &[V], V, Kernel::Map(math::tan)),
    row("tanh", &[V], V, Kernel::Map(math::tanh)),
    special("time", &[], S, Special::Time),
    special("timestamp", &[V], V, Special::Timestamp),
    row("ts_of_first_over_time", &[M], V, Kernel::Window(over_time::ts_of_first)).experimental(),
    row("ts_of_last_over_time", &[M], V, Kernel::Window(over_time::ts_of_last)).experimental(),
    row("ts_of_max_over_time", &[M], V, Kernel::Window(over_time::ts_of_max)).experimental(),
    row("ts_of_min_over_time", &[M], V, Kernel::Window(over_time::ts_of_min)).experimental(),
    special("vector", &[S], V, Special::Vector),
    row("year", &[V], V, Kernel::Map(date::year)).optional(1),
];

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;
    use crate::function::Window;

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
    fn functions_of_values_look_at_nothing_else() {
        let (times, values) = ([1_000, 3_000, 4_000, 9_000], [2.0, -1.0, 7.5, 7.5]);
        for f in FUNCTIONS.iter().filter(|f| f.of_values) {
            let Kernel::Window(kernel) = f.kernel else { panic!("{} has no window", f.name) };
            assert!(!f.reads_starts);
            let whole = Window {
                timestamps: &times,
                values: &values,
                starts: &[],
                start: 0,
                end: 10_000,
                at: 12_000,
                args: &[0.3],
            };
            let alone = Window { timestamps: &[], start: 5, end: 6, at: 7, ..whole };
            assert_eq!(kernel(&whole), kernel(&alone), "{}", f.name);
        }
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
