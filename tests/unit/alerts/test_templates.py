"""Templates without a peer: places of errors, limits, Alertmanager's functions and data."""

# ruff: noqa: E501  (tables are read line by line)

from __future__ import annotations

import pytest

from metricsdb.alerts import PostableAlert
from metricsdb.alerts.patterns import replace_all, search
from metricsdb.alerts.templates import Data, Limits, NotificationTemplates, check, expand, render
from metricsdb.errors import ConfigError, QueryError, TemplateError

NOW = 1_700_000_100_000
START = 1_700_000_000_000


def data() -> Data:
    alerts = [
        PostableAlert({"alertname": "Down", "job": "a", "i": "1"}, {"summary": "s", "x": "1"}, START, None, "http://g"),
        PostableAlert({"alertname": "Down", "job": "a", "i": "2"}, {"summary": "s"}, START, START + 60_000),
        PostableAlert({"alertname": "Down", "job": "a", "i": "3"}, {"summary": "s"}, START, NOW + 60_000),
    ]
    return Data("team.a", {"job": "a"}, alerts, NOW, "http://am")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("{{ .Status }} {{ .Receiver }} {{ .ExternalURL }}", "firing team\\.a http://am"),
        ("{{ len .Alerts }} {{ .Alerts.Firing | len }} {{ len .Alerts.Resolved }}", "3 2 1"),
        ("{{ .CommonLabels }}|{{ .GroupLabels.job }}|{{ .CommonAnnotations.summary }}", "alertname=Down, job=a|a|s"),
        ("{{ range .CommonLabels.SortedPairs }}{{ .Name }}:{{ .Value }} {{ end }}", "alertname:Down job:a "),
        ('{{ .CommonLabels.Names | join "," }} {{ .CommonLabels.Values | join "," }}', "alertname,job Down,a"),
        ('{{ (.CommonLabels.Remove (stringSlice "alertname")).SortedPairs }}', "job=a"),
        ('{{ .CommonLabels.SortedPairs.Names }} {{ .CommonLabels.SortedPairs.Values }}', "[alertname job] [Down a]"),
        ("{{ .CommonLabels.String }} {{ .CommonLabels.SortedPairs.String }}", "alertname=Down, job=a alertname=Down, job=a"),
        ("{{ (index .Alerts 1).Status }} {{ (index .Alerts 0).Fingerprint }}", "resolved 4b87bb8cb15acb64"),
        ('{{ (index .Alerts 0).StartsAt | tz "Europe/Paris" | date "15:04 MST" }}', "23:13 CET"),
        ('{{ (index .Alerts 0).StartsAt.Format "2006-01-02T15:04:05Z07:00" }}', "2023-11-14T22:13:20Z"),
        ("{{ (index .Alerts 0).StartsAt }} {{ (index .Alerts 0).EndsAt.IsZero }}", "2023-11-14 22:13:20 +0000 UTC true"),
        ("{{ since (index .Alerts 0).StartsAt }} {{ (since (index .Alerts 0).StartsAt).Minutes }}", "1m40s 1.6666666666666667"),
        ("{{ humanizeDuration 90 }} {{ now.Unix }}", "1m 30s 1700000100"),
        ('{{ title "hELLO o\'brien x" }} {{ trimSpace " x " }} {{ toUpper "a" }}{{ toLower "B" }}', "Hello O'brien X x Ab"),
        ('{{ match "a." "xab" }} {{ reReplaceAll "a" "b" "aa" }} {{ urlUnescape "a%20b" }} {{ safeUrl "x" }}', "true bb a b x"),
        ('{{ stringSlice }} {{ list 1 "a" }} {{ join "-" (stringSlice "a" "b") }}', "[] [1 a] a-b"),
        ("{{ toJson .GroupLabels }} {{ toJson 1.0 }} {{ toJson .CommonLabels.SortedPairs }}", '{"job":"a"} 1 [{"Name":"alertname","Value":"Down"},{"Name":"job","Value":"a"}]'),
        ('{{ template "greet" .Status }}', "<firing>"),
        ('{{ eq .Status "firing" }} {{ printf "%s" .CommonLabels }} {{ printf "%v" (index .Alerts 0).StartsAt }}', "true alertname=Down, job=a 2023-11-14 22:13:20 +0000 UTC"),
    ],
)  # fmt: skip
def test_notifications_see_alertmanagers_data(text, shown):
    templates = NotificationTemplates(['{{ define "greet" }}<{{ . }}>{{ end }}'])
    templates.check(text)
    assert templates.render(text, data(), NOW) == shown


def test_a_notification_without_a_template_is_its_own_text():
    assert NotificationTemplates().render("plain", data(), NOW) == "plain"


def test_all_resolved_is_resolved():
    gone = Data("r", {}, [PostableAlert({"alertname": "A"}, {}, START, START + 1)], NOW)
    assert NotificationTemplates().render("{{ .Status }} {{ .Alerts.Firing }}", gone, NOW) == "resolved []"
    assert (
        NotificationTemplates().render("{{ toJson .Alerts }}", gone, NOW).startswith('[{"status":"resolved","labels"')
    )


@pytest.mark.parametrize(
    ("text", "line", "column"),
    [
        ("a\n  {{ nothing }}", 2, 6),
        ("{{ if true }}\n\n{{ .x.y }", 3, 9),
        ("\n{{ .Nowhere }}", 2, 4),
        ('{{ define "t" }}\n{{ .a.b }}{{ end }}\n{{ template "t" 5 }}', 2, 4),
        ("{{ printf }}", 1, 4),
        ('{{ tz "Nowhere/Land" 5 }}', 1, 4),
    ],
)
def test_errors_say_where(text, line, column):
    with pytest.raises(TemplateError) as error:
        render(text, {}, 1.0)
    assert (error.value.line, error.value.column) == (line, column)
    assert f"line {line}, column {column}" in str(error.value)


def test_an_error_becomes_the_text_that_is_sent():
    assert expand("{{ .Nowhere }}", {}, 1.0).startswith("<error expanding template: ")
    assert expand("{{ $value }}", {}, 1.0) == "1"


def test_a_failed_query_ends_the_template_only():
    def query(expr):
        raise QueryError("no")

    with pytest.raises(TemplateError, match="error calling query: no"):
        render('{{ query "x" }}', {}, 1.0, query=query)
    with pytest.raises(TemplateError, match="no query can be run here"):
        render('{{ query "x" }}', {}, 1.0)


def test_the_address_and_time_come_from_outside():
    text = "{{ externalURL }} {{ pathPrefix }} {{ $externalURL }} {{ $externalLabels.dc }} {{ now }}"
    given = render(text, {}, 1.0, external_url="http://h/p", external_labels={"dc": "x"}, now_ms=5000)
    assert given == "http://h/p /p http://h/p x 5"


@pytest.mark.parametrize(
    "text",
    [
        "{{ range $x := 1000000000 }}{{ range $y := 1000000000 }}{{ end }}{{ end }}",
        '{{ $x := "aaaaaaaa" }}{{ range 1000 }}{{ $x = printf "%s%s" $x $x }}{{ end }}',
        '{{ $x := "aaaaaaaa" }}{{ range 1000 }}{{ $x = print $x $x }}{{ end }}',
        '{{ $x := "aaaaaaaa" }}{{ range 1000 }}{{ $x = reReplaceAll "a" "aa" $x }}{{ end }}',
        '{{ $x := "<<<<<<<<" }}{{ range 100000 }}{{ $x = html $x }}{{ end }}',
        '{{ define "r" }}{{ template "r" . }}{{ end }}{{ template "r" . }}',
        "{{ range 100000 }}xxxxxxxxxxxxxxxxxxxxxxxx{{ end }}",
        '{{ printf "%999999999d" 1 }}',
        '{{ printf "%*d" 999999 1 }}',
        "{{" + "(" * 5000 + "1" + ")" * 5000 + "}}",
        "{{ if true }}" * 5000 + "{{ end }}" * 5000,
        "{{ if false }}{{ else if true }}" * 500 + "{{ end }}" * 500,
        '{{ reReplaceAll "(a*)*b" "x" (printf "%5000s" "a") | len }}{{ range 1000000 }}{{ end }}',
    ],
)
def test_hostile_templates_end(text):
    with pytest.raises(TemplateError):
        render(text, {}, 1.0)


def test_limits_may_be_smaller():
    with pytest.raises(TemplateError, match="more than 3 steps"):
        render("{{ 1 }}{{ 2 }}{{ 3 }}", {}, 1.0, limits=Limits(steps=3))
    with pytest.raises(TemplateError, match="printf makes more than 2 characters"):
        render('{{ printf "abc" | len }}', {}, 1.0, limits=Limits(text=2))
    with pytest.raises(TemplateError, match="unknown time zone"):
        NotificationTemplates().render('{{ now | tz "Mars/Base" }}', data(), NOW)
    with pytest.raises(TemplateError, match="more than 2 characters"):
        render("{{ 100 }}", {}, 1.0, limits=Limits(text=2))


def test_nothing_of_python_is_reached():
    for text in ("{{ .__class__ }}", "{{ $labels.__class__ }}x", "{{ $labels.items }}x", "{{ ($value).real }}"):
        assert expand(text, {}, 1.0) in ("x", expand(text, {}, 1.0))
        assert "class" not in expand(text, {}, 1.0).replace("__class__", "")
    assert render("{{ $labels.items }}x", {}, 1.0) == "x"


def test_check_is_what_loading_asks():
    check("{{ $value }}")
    with pytest.raises(TemplateError):
        check("{{ $valu }}")


def test_a_regex_that_cannot_be_read_says_so():
    with pytest.raises(TemplateError, match="regex"):
        render('{{ match "(" "x" }}', {}, 1.0)
    with pytest.raises(ConfigError):
        search("(", "x")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ('{{ eq . "x" }}', None),
        ("{{ eq 1 }}", None),
        ("{{ eq nil nil }} {{ eq nil 1 }} {{ ne 1 1 }}", "true false false"),
        ("{{ len 5 }}", None),
        ("{{ len nil }}", None),
        ("{{ index 5 1 }}", None),
        ("{{ index nil 1 }}", None),
        ("{{ index $labels 1 }}", None),
        ('{{ index (args 1) "arg0" }} {{ (args 1).arg0 }} {{ (args 1).arg9 }}', "1 1 <no value>"),
        ('{{ index "abc" 1 }} {{ index "abc" true }}', None),
        ('{{ index "abc" 1 }}', "98"),
        ('{{ slice "abc" 1 2 3 }}', None),
        ("{{ slice 5 }}", None),
        ('{{ (slice (query "m") 1).x }}', None),
        ('{{ len (slice (query "m") 1) }}', "1"),
        ("{{ call 5 }}", None),
        ('{{ js "\u0001<\u2028" }}', "\\u0001\\u003C\\u2028"),
        ("{{ and }}", None),
        ("{{ 1 | and 0 }} {{ 5 | or 0 }}", "0 5"),
        ("{{ if false }}{{ $x := 1 }}{{ else }}{{ $x }}{{ end }}", None),
        ("{{ 5 | 6 }}", None),
        ("{{ if false }}{{ $x := 1 }}{{ else }}{{ $x = 2 }}{{ end }}", None),
        ("{{ (toTime 1).Nowhere }}", None),
        ("{{ (toTime 1).Format }}", None),
        ("{{ (toTime 1).Format 5 }}", None),
        ("{{ (toTime 1).Add 5 }}", None),
        ("{{ ((toTime 100).Add (toDuration 1.5)).Unix }} {{ ((toTime 100).Sub (toTime 40)).Seconds }}", "101 60"),
        (
            "{{ (toTime 100).Equal (toTime 100) }} {{ (toTime 1).Before (toTime 2) }} {{ (toTime 1).After (toTime 2) }}",
            "true true false",
        ),
        ("{{ eq (toTime 1) (toTime 1) }} {{ eq (toDuration 1) (toDuration 2) }}", "true false"),
        (
            "{{ (toTime 1.5).UnixMilli }} {{ (toTime 1).UnixNano }} {{ (toTime 1.5).Nanosecond }} {{ (toTime 1).UTC }} {{ (toTime 1).Local }}",
            "1500 1000000000 500000000 1970-01-01 00:00:01 +0000 UTC 1970-01-01 00:00:01 +0000 UTC",
        ),
        (
            "{{ (toTime 1).Day }} {{ (toTime 1).Hour }} {{ (toTime 1).Minute }} {{ (toTime 1).Second }} {{ (toTime 1).Month.String }}",
            "1 0 0 1 January",
        ),
        (
            "{{ toDuration 0 }} {{ toDuration 1e-9 }} {{ toDuration 0.0000015 }} {{ toDuration -0.25 }} {{ toDuration 5400.5 }}",
            "0s 1ns 1.5µs -250ms 1h30m0.5s",
        ),
        (
            "{{ (toDuration 90).Hours }} {{ (toDuration 1.5).Milliseconds }} {{ (toDuration 1).Nanoseconds }} {{ (toDuration 1).String }}",
            "0.025 1500 1000000000 1s",
        ),
        (
            "{{ (toDuration 90.4).Round (toDuration 1) }} {{ (toDuration 90.6).Truncate 1000000000 }} {{ (toDuration -1.5).Round 1000000000 }}",
            "1m30s 1m30s -2s",
        ),
        (
            '{{ (toTime 1700000000).Format "2006-002 15h .000 ,999 -07:00:00 Z0700 -0700 -07 pm __2" }}',
            "2023-318 22h .000  +00:00:00 Z +0000 +00 pm 318",
        ),
        ('{{ humanizeDuration (toDuration 90) }} {{ parseDurationTime "90s" }}', "1m 30s 1m30s"),
        ('{{ template "x" }}', None),
        ('{{ define "x" }}{{ break }}{{ end }}', None),
        ('{{ block "x" 1 }}a{{ else }}b{{ end }}', None),
        ("{{ with $x := 5 }}{{ $x }}{{ else with 6 }}{{ . }}{{ end }}", "5"),
        ("{{ with 0 }}a{{ else with 6 }}{{ . }}{{ end }}", "6"),
        ('{{ range $i, $v = query "m" }}{{ end }}', None),
        ('{{ $i := 0 }}{{ $v := 0 }}{{ range $i, $v = query "m" }}{{ end }}{{ $i }}', "1"),
        ("{{ range $i, $v query }}{{ end }}", None),
        ("{{ range 0 }}x{{ else }}none{{ end }}{{ range nil }}{{ end }}", None),
        ("{{ range .Labels.none }}{{ end }}", None),
        ("{{ range (args 1).none }}x{{ else }}none{{ end }}", "none"),
        ("{{ 99999999999999999999 }}", None),
        ("{{ 010 }} {{ 0b11 }} {{ 0o17 }} {{ 0_7 }}", "8 3 15 7"),
        ("{{ 0x }}", None),
        ("{{ 1__0 }}", None),
        ("{{ 'ab' }}", None),
        ("{{ '\\n' }}{{ '\\'' }}", "1039"),
        ('{{ "\\400" }}', None),
        ('{{ "\\ud800" }}', None),
        ('{{ "\\U0001F600 \\101" }}', "😀 A"),
        ('{{ printf "%q %+q %#q %q" "a\\x01\\U000E0001" "é" "x" 39 }}', '"a\\x01\\U000e0001" "\\u00e9" `x` \'\\\'\''),
        ('{{ printf "%[9]d %[3]d" 3 4 5 }}', "%!d(BADINDEX) 5"),
        ('{{ printf "%[3]*.[2]*[1]f|" 12.0 2 6 }}', " 12.00|"),
        ('{{ printf "%*d %.*d" "x" 1 "y" 2 }}', "%!(BADWIDTH)1 %!(BADPREC)2"),
        (
            '{{ printf "%.*f|%-5d|%+v|%#x|%#o|%O" -1 1.5 3 (query "m" | first) 255 8 8 }}',
            "1.500000|3    |{Labels:map[__name__:m i:b] Value:2}|0xff|010|0o10",
        ),
        (
            '{{ printf "%v %s %d" (query "m") (args "a") (args 1) }}',
            "[{map[__name__:m i:b] 2} {map[__name__:m i:a] 1500}] map[arg0:a] map[%!d(string=arg0):1]",
        ),
        (
            '{{ printf "%b %x %X %.3x %x" 1.0 1.0 -0.5 1.9999999 0.0 }}',
            "4503599627370496p-52 0x1p+00 -0X1P-01 0x1.000p+01 0x0p+00",
        ),
        ('{{ printf "% d|%x|% f|% f" 5 -255 (parseDuration "1s") -1.0 }}', " 5|-ff| 1.000000|-1.000000"),
        (
            '{{ printf "%T %T %T" (query "m") (toTime 1) (args) }}',
            "[]*template.sample time.Time map[string]interface {}",
        ),
        ('{{ print (query "m") }}', "[{map[__name__:m i:b] 2} {map[__name__:m i:a] 1500}]"),
        ("{{ .Labels.a.b }}", None),
        ("{{ (args 1).arg0.x }}", None),
        ("{{ toUpper 5 }}", None),
        ("{{ humanize true }}{{ humanize (args) }}", None),
        ("{{ humanizeTimestamp 1e30 }}", None),
        (
            '{{ stripDomain "[::1]:80" }} {{ stripDomain "10.0.0.1" }} {{ stripPort "[::1]:80" }}',
            "[::1]:80 10.0.0.1 ::1",
        ),
        (
            '{{ if match "^\\\\d[[:alpha:]&][^]]\\\\Q.*\\\\E$" "1&x.*" }}yes{{ end }}{{ if match "\\\\Qa" "a" }}!{{ end }}',
            "yes!",
        ),
        ('{{ match "[[]" "[" }} {{ match "[]a]" "]" }} {{ match "[^]a]" "]" }} {{ match "[[:" "x" }}', None),
        ('{{ match "[[]" "[" }} {{ match "[]a]" "]" }} {{ match "[^]a]" "]" }}', "true true false"),
        ("{{ .x", None),
        ('{{ 1 \n }}{{ "a\n" }}', None),
    ],
)
def test_every_corner(text, shown):
    rows = [({"__name__": "m", "i": "b"}, 2.0), ({"__name__": "m", "i": "a"}, 1500.0)]
    if shown is None:
        with pytest.raises(TemplateError):
            render(text, {"a": "x"}, 1.0, query=lambda expr: rows)
    else:
        assert render(text, {"a": "x"}, 1.0, query=lambda expr: rows) == shown


def test_a_long_replacement_is_refused_before_it_is_made():
    with pytest.raises(ConfigError, match="may take"):
        replace_all("a", "$0" * 5000, "a" * 5000)


def test_random_text_is_read_or_refused():
    import random

    chance = random.Random(4)
    parts = ["{{", "}}", "{{-", "-}}", " ", "if", "end", "else", "range", "$x", ":=", "=", "|", "(", ")", ".", ".a", '"s"', "`r`", "1", "1.5", "'c'",
             "$labels", "printf", "and", "nil", "true", ",", "define", "template", "block", "with", "break", "/*", "*/", "\n", "query", "é", "\\", '"']  # fmt: skip
    for _ in range(4000):
        text = "".join(chance.choice(parts) for _ in range(chance.randrange(1, 14)))
        if chance.random() < 0.7:
            text = "{{ " + " ".join(chance.choice(parts) for _ in range(chance.randrange(1, 9))) + " }}" + text
        assert isinstance(expand(text, {"a": "x"}, 1.0, query=lambda expr: [({"i": "a"}, 1.0)]), str)
