"""Templates without a peer: places of errors, limits, Alertmanager's functions and data."""

# ruff: noqa: E501  (tables are read line by line)

from __future__ import annotations

import pytest

from metricsdb.alerts import PostableAlert
from metricsdb.alerts.patterns import search
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
