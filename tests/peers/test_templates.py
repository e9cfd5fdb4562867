"""Templates of annotations beside promtool, which renders them with Prometheus' own code."""

# ruff: noqa: E501  (tables are read line by line)

from __future__ import annotations

import random
import re
import subprocess

import pytest
import yaml

from metricsdb.alerts.templates import render
from metricsdb.alerts.templates.values import unquote
from metricsdb.errors import TemplateError
from tests.peers.processes import need

pytestmark = pytest.mark.peers

LABELS = {"a": "x<y>&z", "instance": "db-1.example.org:9100", "path": "/var/lib", "n": "12.5"}
SHAPES = r"""
{{ $value }}
{{ $labels.instance }} {{ .Labels.a }} {{ .Value }}
{{ $labels.none }}|{{ .Labels.none }}
{{ $labels }}
{{ $externalLabels }}|{{ .ExternalLabels }}
a {{- $value -}} b
a {{- " " -}} b
 a {{/* nothing */}} b {{- /* nothing */ -}} c
{{ if gt $value 10.0 }}big{{ else if lt $value 0.0 }}below{{ else }}small{{ end }}
{{ if $labels.none }}there{{ else }}gone{{ end }}
{{ if and $labels.a (gt $value 1.5) }}both{{ end }}{{ if or $labels.none "" }}one{{ else }}neither{{ end }}
{{ if not $labels.none }}none{{ end }}
{{ with $labels.a }}<{{ . }}>{{ else }}no{{ end }}
{{ with $labels.none }}<{{ . }}>{{ else }}no{{ end }}
{{ with $x := $labels.a }}{{ $x }}{{ end }}
{{ range $k, $v := $labels }}{{ $k }}={{ $v }};{{ end }}
{{ range $labels }}{{ . }};{{ end }}
{{ range $i, $s := query "up" }}{{ $i }}{{ $s.Value }}{{ else }}empty{{ end }}
{{ range query "m" | sortByLabel "i" }}{{ .Labels.i }}={{ .Value }};{{ end }}
{{ with query "m" | sortByLabel "i" }}{{ . | first | value | humanize }} {{ . | first | label "i" }}{{ end }}
{{ query "m" | first | strvalue }}|
{{ query "nothing" | first | value }}
{{ (query "m" | sortByLabel "i" | first).Labels.i }}
{{ len (query "m") }} {{ query "m" | len }} {{ len $labels }} {{ len "é" }}
{{ $x := 1 }}{{ range query "m" }}{{ $x = 5 }}{{ end }}{{ $x }}
{{ $x := 1 }}{{ if true }}{{ $x := 2 }}{{ $x }}{{ end }}{{ $x }}
{{ define "t" }}[{{ . }}]{{ end }}{{ template "t" $value }}{{ template "t" }}
{{ block "b" $labels }}{{ .a }}{{ end }}
{{ define "t" }}{{ .arg0 }}-{{ .arg1 }}-{{ .arg2 }}{{ end }}{{ template "t" (args 1 "two") }}
{{ template "nowhere" . }}
{{ index $labels "a" }} {{ index $labels "none" }}|
{{ index (query "m") 7 }}
{{ slice $labels.path 1 4 }} {{ slice $labels.path 1 }} {{ slice $labels.path }}
{{ slice $labels.path 1 400 }}
{{ html $labels.a }} {{ js $labels.a }} {{ urlquery $labels.a }} {{ js "it's \\ \"" }}
{{ print 1 2 "a" 3 4 "b" "c" 1.5 true nil }}
{{ println "a" 1 true }}
{{ printf "%s is %5.2f%%" $labels.a $value }}
{{ printf "%d %t %q %v" 5 true "q\n" $labels.a }}
{{ printf "%d" $value }} {{ printf "%s" $value }} {{ printf "%f" "x" }}
{{ printf "%s" }} {{ printf "x" 1 }} {{ printf "%[2]s %[1]s" "a" "b" }} {{ printf "%z" 3 }} {{ printf "%" }}
{{ printf "%*d|%-*d|" 5 1 4 2 }}
{{ printf "%6.2v|%-8v|%08.3f|%+.1e|%x|%X|% x|%c|%U|%o|%b" $value "ab" $value $value "hi" 255 "hi" 65 65 8 5 }}
{{ printf "%v %v %T %T %T %T" $labels nil 1 1.5 "s" true }}
{{ 1000000.0 }} {{ 123456.0 }} {{ 0.0001 }} {{ 0.00001 }} {{ 1e21 }} {{ 1e3 }} {{ 100 }} {{ 0x1F }} {{ 'a' }} {{ 1_000 }}
{{ "quo\"ted" }} {{ `raw "string"` }} {{ "tab\tx\u00e9\x41" }}
{{ eq 1 1 }} {{ eq "a" "b" "a" }} {{ ne 1 2 }} {{ lt "a" "b" }} {{ le 1 1 }} {{ ge 1.5 1.0 }} {{ eq true true }}
{{ eq $value 10 }}
{{ gt $value 10 }}
{{ lt true false }}
{{ eq $labels $labels }}
{{ 1 | eq 1 }} {{ $value | printf "%.1f" | toUpper }}
{{ and 1 0 "x" }} {{ or 0 "" "y" }} {{ and 1 2 }} {{ not 1 }}
{{ title "hello big wORLD" }} {{ toUpper "abc é" }} {{ toLower "ABC" }}
{{ match "^d" $labels.instance }} {{ match "[" "x" }}
{{ reReplaceAll "(\\w+)-(\\d+)" "$2_${1}" $labels.instance }} {{ reReplaceAll "[.:]" "" $labels.instance }}
{{ reReplaceAll "(.*):.*" "$1x" $labels.instance }}|
{{ graphLink "up == 0" }} {{ tableLink "rate(x[5m])" }}
{{ safeHtml $labels.a }}
{{ stripPort $labels.instance }} {{ stripDomain $labels.instance }} {{ stripDomain "10.0.0.1:80" }} {{ stripPort "[::1]:80" }}
{{ stripPort "host" }} {{ stripDomain "host.local" }} {{ stripPort "::1" }} {{ stripDomain "a.b.c" }}
{{ parseDuration "1h30m" }} {{ parseDuration "5m" | humanizeDuration }} {{ parseDuration "x" }}
{{ humanize $value }} {{ humanize1024 $value }} {{ humanizeDuration $value }} {{ humanizePercentage $value }}
{{ humanizeTimestamp $value }}
{{ toTime $value }}
{{ (toTime 1700000000).Format "Mon Jan _2 15:04:05.000 2006 Z07:00 MST PM 3 06 January Monday 02" }}
{{ (toTime 1700000000).Year }} {{ (toTime 1700000000).Month }} {{ (toTime 1700000000).Weekday }} {{ (toTime 1.7e9).Unix }}
{{ (toTime 1700000000).YearDay }} {{ (toTime 1700000000).IsZero }}
{{ humanize $labels.n }} {{ humanize "12e3" }} {{ humanize 12000 }}
{{ humanize "twelve" }}
{{ humanize true }}
{{ toUpper 5 }}
{{ toUpper }}
{{ toUpper "a" "b" }}
{{ .Nothing }}
{{ .Value.Deep }}
{{ $labels.a.b }}
{{ $labels.a 1 }}
{{ nil }}
{{ range $value }}x{{ end }}
{{ range $i := query "m" }}{{ break }}x{{ else }}y{{ end }}ok
{{ range $i, $e := query "m" }}{{ if eq $i 0 }}{{ continue }}{{ end }}{{ $i }}{{ end }}
{{ if false }}{{ $q := 1 }}{{ end }}ok
{{ define "t" }}{{ .x }}|{{ .x.y }}{{ end }}{{ template "t" }}
{{ printf "%.f|%*d|%-5.0d|%5.0d|%.0d|" 1.5 -5 1 0 0 0 }}
""".strip("\n").split("\n")  # fmt: skip
REFUSED = r"""
{{
{{ }}
{{ if }}x{{ end }}
{{ if true }}x
{{ end }}
{{ else }}
{{ if true }}{{ else }}{{ else }}{{ end }}
{{ nofunction 1 }}
{{ $nothing }}
{{ "open }}
{{ 'ab' }}
{{ 1 | 2 }}
{{ (1 }}
{{ 1) }}
{{ 1.x }}
{{ "a".b }}
{{ break }}
{{ template x }}
{{ define "a" }}
{{ if true }}{{ define "a" }}{{ end }}{{ end }}
{{/* open
{{/* a */ x}}
{{ .a.b# }}
{{ "\z" }}
{{ true false | . }}
{{ range $a, $b, $c := $labels }}{{ end }}
{{ with $x := 1 }}{{ end }}{{ $x }}
{{ print"a"1 }}
{{ 12ab }}
""".strip("\n").split("\n")
VALUES = ["0", "1", "-1", "0.5", "12.345", "1234567.891", "1.5e-7", "123456789", "1.7e9", "86399.5", "90061", "-3600", "Inf", "-Inf", "NaN", "1e21", "2.5e15", "0.001234"]  # fmt: skip
ROWS = [({"__name__": "m", "i": "b"}, 2.0), ({"__name__": "m", "i": "a"}, 1500.0)]


def number(text: str) -> float:
    return float(text)


def peer(tmp_path, cases: list[tuple[str, str]]) -> list[str]:
    """What promtool makes of (template, value); the value is that of the expression's sample."""
    rules, tests = [], []
    series = "src{" + ",".join(f'{k}="{v}"' for k, v in LABELS.items()) + "}"
    for i, (text, value) in enumerate(cases):
        name = f"A{i:05d}"
        rules.append({"alert": name, "expr": f"src * 0 + {value}", "annotations": {"v": text}})
        tests.append({"eval_time": "1m", "alertname": name, "exp_alerts": []})
    (tmp_path / "rules.yml").write_text(yaml.safe_dump({"groups": [{"name": "g", "rules": rules}]}))
    inputs = [{"series": series, "values": "0x5"}, *({"series": f'm{{i="{r[0]["i"]}"}}', "values": f"{r[1]}x5"} for r in ROWS)]  # fmt: skip
    test = {"interval": "1m", "input_series": inputs, "alert_rule_test": tests}
    (tmp_path / "test.yml").write_text(yaml.safe_dump({"rule_files": ["rules.yml"], "tests": [test]}))
    done = subprocess.run(
        [need("promtool"), "test", "rules", str(tmp_path / "test.yml")], capture_output=True, text=True, check=False
    )
    found = dict(re.findall(r'alertname="(A\d{5})".*?Annotations:\{v=("(?:[^"\\]|\\.)*")\}', done.stdout + done.stderr, re.DOTALL))  # fmt: skip
    assert len(found) == len(cases), done.stdout[-3000:] + done.stderr[-3000:]
    return [unquote(found[f"A{i:05d}"]) for i in range(len(cases))]


def ours(text: str, value: str) -> str | None:
    def query(expr):
        return {"m": ROWS, "nothing": [], "up": []}[expr]

    try:
        return render(text, LABELS, number(value), query=query, external_url="")
    except TemplateError:
        return None


def compare(tmp_path, cases: list[tuple[str, str]]) -> None:
    wrong = []
    for (text, value), theirs in zip(cases, peer(tmp_path, cases), strict=True):
        mine = ours(text, value)
        refused = theirs.startswith("<error expanding template")
        if (mine is None) != refused or (mine is not None and mine != theirs):
            wrong.append((text, value, mine, theirs))
    assert not wrong, "\n".join(map(repr, wrong[:40])) + f"\n{len(wrong)} of {len(cases)}"


def test_what_people_write_renders_as_there(tmp_path):
    compare(tmp_path, [(text, value) for text in SHAPES for value in ("1234567.891", "0.5")])


def test_numbers_are_humanized_as_there(tmp_path):
    chance = random.Random(7)
    values = VALUES + [f"{chance.choice([-1, 1]) * 10 ** chance.uniform(-12, 18):.6g}" for _ in range(120)]
    shapes = [s for s in SHAPES if "humanize" in s or s == "{{ $value }}" or "toTime" in s]
    shapes.append('{{ printf "% f|%+f|% g|%08.1f|%-9.1f|" $value $value $value $value $value }}')
    # Beyond 2^63 seconds Go's conversion to an integer is undefined; ours goes on counting days.
    compare(tmp_path, [(s, v) for s in shapes for v in values if abs(number(v)) != 1e21 or "Duration" not in s])


def test_random_formats_are_printed_as_there(tmp_path):
    chance = random.Random(11)

    def verb() -> str:
        flags = "".join(chance.choice(["", "", "-", "+", " ", "0", "#"]) for _ in range(2)).replace("#", "")
        width, precision = chance.choice(["", "", "3", "12"]), chance.choice(["", "", ".0", ".2", ".7"])
        return f"%{flags}{width}{precision}{chance.choice('vvdsqxXeEfFgGtcUobT')}"

    cases = []
    for _ in range(800):
        args = [chance.choice(["$value", "$labels.a", "5", "-7", "1.25", "true", '"é"', "nil", "$labels"]) for _ in range(chance.randrange(4))]  # fmt: skip
        text = " ".join(verb() for _ in range(max(1, len(args) + chance.choice([0, 0, 0, 1, -1]))))
        cases.append((f'{{{{ printf "{text}" {" ".join(args)} }}}}', chance.choice(VALUES)))
    compare(tmp_path, cases)


@pytest.mark.parametrize("text", ["{{ $x = 1 }}", "{{ 1 | }}"])
def test_what_fails_there_when_it_runs_is_refused_at_once(text):
    with pytest.raises(TemplateError):
        render(text, {}, 1.0)


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_read_is_refused_as_there(text, tmp_path):
    rules = {"groups": [{"name": "g", "rules": [{"alert": "A", "expr": "x", "annotations": {"v": text}}]}]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    done = subprocess.run([need("promtool"), "check", "rules", str(tmp_path / "rules.yml")], capture_output=True, check=False)  # fmt: skip
    assert (ours(text, "1") is None) == (done.returncode != 0)
