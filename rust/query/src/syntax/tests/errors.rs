//! What is refused, in which words, and where.

use crate::syntax::parse;

fn error(text: &str) -> String {
    match parse(text) {
        Ok(expr) => panic!("{text} parses as {expr}"),
        Err(error) => error.to_string(),
    }
}

/// Messages as Prometheus 2.42 gives them, and its positions where they point at the culprit.
#[test]
fn refusals_have_the_words_of_prometheus() {
    let cases = [
        ("", "1:1: parse error: no expression found in input"),
        ("# only this", "1:1: parse error: no expression found in input"),
        ("foo bar", "1:5: parse error: unexpected identifier \"bar\""),
        ("foo +", "1:6: parse error: unexpected end of input"),
        ("foo and", "1:8: parse error: unexpected end of input"),
        ("* foo", "1:1: parse error: unexpected <op:*>"),
        ("foo[5m] bar", "1:9: parse error: unexpected identifier \"bar\""),
        ("1 2", "1:3: parse error: unexpected number \"2\""),
        ("on", "1:1: parse error: unexpected <on>"),
        ("foo}", "1:4: parse error: unexpected character: '}'"),
        ("foo]", "1:4: parse error: unexpected right bracket ']'"),
        ("foo)", "1:4: parse error: unexpected right parenthesis ')'"),
        ("foo ~ bar", "1:5: parse error: unexpected character: '~'"),
        ("foo=~\"x\"", "1:4: parse error: unexpected character after '=': '~'"),
        ("foo!bar", "1:4: parse error: unexpected character after '!': 'b'"),
        ("foo{a!\"b\"}", "1:6: parse error: unexpected character after '!' inside braces: '\"'"),
        ("foo{a=b}", "1:7: parse error: unexpected identifier \"b\" in label matching, expected string"),
        ("foo{a}", "1:6: parse error: unexpected \"}\" in label matching, expected label matching operator"),
        ("foo{,}", "1:5: parse error: unexpected \",\" in label matching, expected identifier or \"}\""),
        (
            "foo{a=\"b\" c=\"d\"}",
            "1:11: parse error: unexpected identifier \"c\" in label matching, expected \",\" or \"}\"",
        ),
        ("foo{*}", "1:5: parse error: unexpected character inside braces: '*'"),
        ("foo{a={}}", "1:7: parse error: unexpected left brace '{'"),
        ("'a\nb'", "1:1: parse error: unterminated quoted string (close it with ')"),
        ("0x1g", "1:1: parse error: bad number or duration syntax: \"0x1g\""),
        ("\"\\q\"", "1:2: parse error: unknown escape sequence U+0071 'q'"),
        ("foo[0]", "1:5: parse error: duration must be greater than 0"),
        ("foo[5m:-1m]", "1:8: parse error: duration must be greater than 0"),
        ("foo[5mm]", "1:5: parse error: not a valid duration string: \"5mm\""),
        ("foo[300y]", "1:5: parse error: duration out of range"),
        ("foo[5m / 0]", "1:10: parse error: division by zero"),
        ("foo[5m", "1:7: parse error: unclosed left bracket (add ] for the [ at 1:4)"),
        (
            "foo offset",
            "1:11: parse error: unexpected end of input in offset, expected number, duration, step(), or range()",
        ),
        ("foo @ bar", "1:7: parse error: unexpected identifier \"bar\" in @, expected timestamp"),
        ("foo @ Inf", "1:7: parse error: timestamp out of bounds for @ modifier: inf"),
        ("foo @ 1 @ 2", "1:9: parse error: @ <timestamp> may not be set multiple times"),
        ("foo offset 1m offset 2m", "1:15: parse error: offset may not be set multiple times"),
        ("foo @ 1[5m]", "1:1: parse error: no @ modifiers allowed before range"),
        ("foo offset 1m[5m]", "1:1: parse error: no offset modifiers allowed before range"),
        (
            "foo smoothed anchored",
            "1:14: parse error: anchored and smoothed modifiers cannot be used together",
        ),
        ("foo[5m:] smoothed", "1:10: parse error: smoothed modifier is not supported for subqueries"),
        ("sum by foo", "1:8: parse error: unexpected identifier \"foo\" in grouping opts, expected \"(\""),
        ("sum by (1) (x)", "1:9: parse error: unexpected number \"1\" in grouping opts, expected label"),
        ("sum by (a) x", "1:12: parse error: unexpected identifier \"x\" in aggregation"),
        ("sum()", "1:1: parse error: no arguments for aggregate expression provided"),
        (
            "topk(x)",
            "1:1: parse error: wrong number of arguments for aggregate expression provided, expected 2, got 1",
        ),
        (
            "sum(x, y)",
            "1:1: parse error: wrong number of arguments for aggregate expression provided, expected 1, got 2",
        ),
        ("abs(x,)", "1:6: parse error: trailing commas not allowed in function call args"),
        (
            "a + group_left b",
            "1:5: parse error: unexpected <group_left> (group_left and group_right follow on(…) or ignoring(…))",
        ),
        ("count_values(\"a\\xc5z\", x)", "invalid label name \"a\\xc5z\""),
    ];
    for (text, message) in cases {
        assert_eq!(error(text), message, "{text}");
    }
}

#[test]
fn types_are_refused_in_the_words_of_prometheus() {
    let cases = [
        (
            "rate(x)",
            "1:6: parse error: expected type range vector in call to function \"rate\", got instant vector (give it a range, as in x[5m])",
        ),
        (
            "sum(x[5m])",
            "1:5: parse error: expected type instant vector in aggregation expression, got range vector (leave the range out, or apply a function)",
        ),
        (
            "sum(1)",
            "1:5: parse error: expected type instant vector in aggregation expression, got scalar (vector(…) makes a vector of a scalar)",
        ),
        (
            "topk(x, y)",
            "1:6: parse error: expected type scalar in aggregation parameter, got instant vector (scalar(…) makes a scalar of a vector)",
        ),
        (
            "count_values(1, x)",
            "1:14: parse error: expected type string in aggregation parameter, got scalar",
        ),
        ("time(1)", "1:1: parse error: expected 0 argument(s) in call to \"time\", got 1"),
        ("clamp(x)", "1:1: parse error: expected 3 argument(s) in call to \"clamp\", got 1"),
        ("round(x, 1, 2)", "1:1: parse error: expected at most 2 argument(s) in call to \"round\", got 3"),
        (
            "label_join(x, \"a\")",
            "1:1: parse error: expected at least 3 argument(s) in call to \"label_join\", got 2",
        ),
        ("nope(x)", "1:1: parse error: unknown function with name \"nope\""),
        ("RATE(x[5m])", "1:1: parse error: unknown function with name \"RATE\" (did you mean rate?)"),
        (
            "histogram_quantil(0.9, x)",
            "1:1: parse error: unknown function with name \"histogram_quantil\" (did you mean histogram_quantile?)",
        ),
        ("1 == 1", "1:3: parse error: comparisons between scalars must use BOOL modifier (write == bool)"),
        ("x + bool 1", "1:3: parse error: bool modifier can only be used on comparison operators"),
        ("x and 1", "1:1: parse error: set operator \"and\" not allowed in binary scalar expression"),
        ("x and on(a) group_left(b) y", "1:1: parse error: no grouping allowed for \"and\" operation"),
        ("x or fill(0) y", "1:1: parse error: filling in missing series not allowed for set operators"),
        ("x + fill(0) 1", "1:1: parse error: filling in missing series only allowed between instant vectors"),
        (
            "x + on(a) group_left(a) y",
            "1:3: parse error: label \"a\" must not occur in ON and GROUP clause at once",
        ),
        ("x + on(a) 1", "1:1: parse error: vector matching only allowed between instant vectors"),
        (
            "\"a\" + 1",
            "1:1: parse error: binary expression must contain only scalar and instant vector types",
        ),
        (
            "x + y[5m]",
            "1:5: parse error: binary expression must contain only scalar and instant vector types",
        ),
        (
            "-x[5m]",
            "1:1: parse error: unary expression only allowed on expressions of type scalar or instant vector, got \"range vector\"",
        ),
        ("1[5m:]", "1:1: parse error: subquery is only allowed on instant vector, got scalar instead"),
        (
            "x[5m:][5m:]",
            "1:1: parse error: subquery is only allowed on instant vector, got range vector instead",
        ),
        (
            "(x)[5m]",
            "1:1: parse error: ranges only allowed for vector selectors (a subquery has a colon, as in [5m:])",
        ),
        ("info(x, y)", "1:9: parse error: expected label selectors only, got vector selector instead"),
        ("info(x, abs(y))", "1:9: parse error: expected label selectors only"),
        ("x{__name__=\"y\"}", "1:1: parse error: metric name must not be set twice: \"x\" or \"y\""),
        ("x{\"y\"}", "1:1: parse error: metric name must not be set twice: \"x\" or \"y\""),
        (
            "(x) offset 5m",
            "1:5: parse error: offset modifier must be preceded by an instant vector selector or range vector selector or a subquery (put it next to the metric, inside the parentheses)",
        ),
        (
            "1 @ 5",
            "1:3: parse error: @ modifier must be preceded by an instant vector selector or range vector selector or a subquery (put it next to the metric, inside the parentheses)",
        ),
    ];
    for (text, message) in cases {
        assert_eq!(error(text), message, "{text}");
    }
    for text in ["{}", "{a=\"\"}", "{a=~\".*\"}", "{a!=\"b\"}", "{a!~\".+\",b=\"\"}"] {
        let found = error(text);
        assert!(found.contains("vector selector must contain at least one non-empty matcher"), "{found}");
    }
    for text in ["{a!=\"\"}", "{a=~\".+\"}", "{a!=\"b\",c=\"d\"}", "x{a=\"\"}", "{\"x\"}"] {
        assert!(parse(text).is_ok(), "{text}");
    }
    assert!(error("x{a=~\"(\"}").starts_with("1:3: parse error: error parsing regexp: missing closing ): "));
}

#[test]
fn places_count_lines_and_characters() {
    assert!(error("a +\n  ü").starts_with("2:3:"));
    assert!(error("x{ä=\"1\"}").starts_with("1:3:"));
    assert!(error("\"äöü\" +\nabs(\n  1)").starts_with("3:3:"));
    assert_eq!(
        error("sum(rate(x[5m])\n  + y"),
        "2:6: parse error: unclosed left parenthesis (add ) for the ( at 1:4)"
    );
    assert_eq!(
        error("x{a=\"b\""),
        "1:8: parse error: unexpected end of input inside braces (add } for the { at 1:2)"
    );
}
