//! Every limit of the product, with its unit.

/// Bytes of one label name, and of one label value.
pub const LABEL_NAME_BYTES_MAX: usize = 1024;
pub const LABEL_VALUE_BYTES_MAX: usize = 64 * 1024;
/// Labels of one series, the metric name among them.
pub const LABELS_PER_SERIES_MAX: usize = 256;
/// Buckets of one histogram, negative and positive ones together, and bounds of one with custom buckets.
pub const HISTOGRAM_BUCKETS_MAX: usize = 1 << 16;
/// Spans of one histogram, negative and positive ones together.
pub const HISTOGRAM_SPANS_MAX: usize = 4096;
/// Bytes of one request body after decompression.
pub const BODY_BYTES_MAX: usize = 64 << 20;
/// Samples of one request body: protobuf writes a sample in two bytes that take sixteen decoded.
pub const BODY_SAMPLES_MAX: usize = 8 << 20;
/// Native histograms of one request body: an empty one is written in two bytes that take a hundred decoded.
pub const BODY_HISTOGRAMS_MAX: usize = 1 << 20;
/// Different strings of one request body that refers to strings by number.
pub const BODY_SYMBOLS_MAX: usize = 1 << 22;
/// Bytes of the labels of one request body that refers to strings by number, all written out.
pub const BODY_LABEL_BYTES_MAX: usize = 4 * BODY_BYTES_MAX;
/// Depth to which expressions, selectors and regexes may nest.
pub const NESTING_MAX: usize = 256;
/// Height of an expression's tree. A chain such as `a + b + c` leans one level further with each
/// operator, so this is also the most operators of one chain.
pub const TREE_HEIGHT_MAX: usize = 512;
/// Bytes of one query's text.
pub const QUERY_BYTES_MAX: usize = 1 << 20;
/// Bytes that the uses of templates in one query may come to, bodies within bodies counted each time.
pub const EXPANDED_BYTES_MAX: usize = QUERY_BYTES_MAX;
/// Templates and parameters that can be named at one place.
pub const TEMPLATES_MAX: usize = 256;
/// Steps of one range query, as Prometheus allows (11,000 points per series).
pub const STEPS_MAX: u64 = 11_000;
/// Samples one query may load by default, as Prometheus' `--query.max-samples`.
pub const QUERY_SAMPLES_MAX: u64 = 50_000_000;

const _: () = assert!(LABEL_VALUE_BYTES_MAX < BODY_BYTES_MAX);
const _: () = assert!(HISTOGRAM_SPANS_MAX <= HISTOGRAM_BUCKETS_MAX);
