"""The template matcher: the RFC's own expansions, what must not match, and the time it takes."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcpgate_proto.relay.templates import MAX_TEMPLATE_CHARS, MAX_URI_CHARS, Template


def matches(template: str, uri: str) -> bool:
    compiled = Template.compile(template)
    assert compiled is not None, template
    return compiled.matches(uri)


# RFC 6570 section 1.2 and 3.2: a template and an expansion of it.
EXPANSIONS = """
{var} value
{hello} Hello%20World%21
{half} 50%25
O{empty}X OX
O{undef}X OX
{x,y} 1024,768
{x,hello,y} 1024,Hello%20World%21,768
?{x,empty} ?1024,
?{x,undef} ?1024
{var:3} val
{list} red,green,blue
{list*} red,green,blue
{keys} semi,%3B,dot,.,comma,%2C
{keys*} semi=%3B,dot=.,comma=%2C
{+var} value
{+hello} Hello%20World!
{base}index http%3A%2F%2Fexample.com%2Fhome%2Findex
{+base}index http://example.com/home/index
O{+empty}X OX
{+path}/here /foo/bar/here
here?ref={+path} here?ref=/foo/bar
up{+path}{var}/here up/foo/barvalue/here
{+x,hello,y} 1024,Hello%20World!,768
{+path,x}/here /foo/bar,1024/here
{+path:6}/here /foo/b/here
{+keys*} semi=;,dot=.,comma=,
{#var} #value
{#hello} #Hello%20World!
foo{#empty} foo#
foo{#undef} foo
{#path,x}/here #/foo/bar,1024/here
{#list*} #red,green,blue
{.who} .fred
{.who,who} .fred.fred
X{.var} X.value
X{.empty} X.
X{.undef} X
X{.list*} X.red.green.blue
X{.keys*} X.semi=%3B.dot=..comma=%2C
X{.empty_keys} X
{/who} /fred
{/var,x}/here /value/1024/here
{/var,empty} /value/
{/var,undef} /value
{/var:1,var} /v/value
{/list*} /red/green/blue
{/list*,path:4} /red/green/blue/%2Ffoo
{/keys*} /semi=%3B/dot=./comma=%2C
{;who} ;who=fred
{;half} ;half=50%25
{;empty} ;empty
{;v,empty,who} ;v=6;empty;who=fred
{;v,bar,who} ;v=6;who=fred
{;x,y} ;x=1024;y=768
{;x,y,undef} ;x=1024;y=768
{;list*} ;list=red;list=green;list=blue
{;keys*} ;semi=%3B;dot=.;comma=%2C
{?x,y} ?x=1024&y=768
{?x,y,empty} ?x=1024&y=768&empty=
{?x,y,undef} ?x=1024&y=768
{?var:3} ?var=val
{?list} ?list=red,green,blue
{?list*} ?list=red&list=green&list=blue
{?keys*} ?semi=%3B&dot=.&comma=%2C
?fixed=yes{&x} ?fixed=yes&x=1024
{&x,y,empty} &x=1024&y=768&empty=
{&list*} &list=red&list=green&list=blue
{;undef}{?undef}{&undef}{/undef}{.undef}{#undef}{undef}end end
"""


@pytest.mark.parametrize("case", EXPANSIONS.strip().split("\n"))
def test_expansions_of_the_rfc(case: str) -> None:
    template, _, uri = case.partition(" ")
    assert matches(template, uri)


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        ("file:///fixed", "file:///fixed/"),
        ("file:///fixed", "file:///FIXED"),
        ("a{x}", "b"),
        ("a/{x}", "a/b/c"),
        ("a/{x}", "a/b?c"),
        ("a/{x}/z", "a/b/y"),
        ("{x}end", "enx"),
        ("{/a,b}", "/1/2/3"),
        ("{/a}", "x"),
        ("x{?q}", "x?other=1"),
        ("x{?q}", "x&q=1"),
        ("x{?q}", "x?q"),
        ("x{?q}", "x?q=1#f"),
        ("x{?q,r}", "x?q=1&s=2"),
        ("x{;a}", "x;ab"),
        ("x{;a}", "x;b=1"),
        ("x{#f}", "xf"),
        ("x{.y}", "xy"),
        ("", "x"),
        ("db://{table}/{id}", "db://users"),
    ],
)
def test_what_does_not_match(template: str, uri: str) -> None:
    assert not matches(template, uri)


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        ("", ""),
        ("note://{title}", "note://caf\u00e9 und mehr"),
        ("db://{table}/{id}", "db://users/7"),
        ("x{?q,r}", "x?r=2&q=1"),
        ("{a}-{b}-{c}", "1-2-3-4-5"),
        ("{+a}/{b}", "1/2/3"),
        ("repo://{owner}/{repo}/contents{/path*}", "repo://o/r/contents/a/b/c.py"),
        ("{user-id}", "7"),
    ],
)
def test_looser_than_the_rfc_where_servers_are(template: str, uri: str) -> None:
    assert matches(template, uri)


@pytest.mark.parametrize(
    "template",
    [
        "{",
        "}",
        "{}",
        "a{b",
        "a}b",
        "{{x}}",
        "{x",
        "{x,}",
        "{,x}",
        "{x y}",
        "{x:0}",
        "{x:10000}",
        "{x:}",
        "{x**}",
        "{=x}",
        "{!x}",
        "{|x}",
        "{@x}",
        "{+}",
        "{?}",
        "{x:3*}",
        "{\u00e9}",
        "{%zz}",
        "x" * (MAX_TEMPLATE_CHARS + 1),
        "{x}/" * 17,
        "{?" + ",".join("v" * 33) + "}",
    ],
)
def test_what_is_no_template(template: str) -> None:
    assert Template.compile(template) is None


literals = st.text(alphabet="ab/-.?&=;#", max_size=4)
values = st.text(alphabet="ab01-._~%", max_size=5)


@given(
    st.lists(
        st.tuples(literals, st.sampled_from(["", "+", "#", "/", ".", "?", "&", ";"]), values), max_size=5
    )
)
def test_every_expansion_matches(pieces: list[tuple[str, str, str]]) -> None:
    template, uri = "", ""
    for literal, operator, value in pieces:
        template += f"{literal}{{{operator}x}}"
        head = {"": "", "+": ""}.get(operator, operator)
        uri += literal + head + (f"x={value}" if operator in ("?", "&", ";") else value)
    assert matches(template, uri)


@given(st.text(max_size=40), st.text(max_size=40))
def test_never_raises(template: str, uri: str) -> None:
    compiled = Template.compile(template)
    if compiled is not None:
        compiled.matches(uri)
        if "{" not in template:
            assert compiled.matches(uri) is (template == uri)


@pytest.mark.parametrize(
    ("template", "uri"),
    [
        ("{/id*}", "/" * 10_240),
        ("{/id*}!", "/a" * 5120),
        ("{+a}{+b}{+c}{+d}{+e}{+f}{+g}!", "a" * 10_240),
        ("{a}x" * 15 + "!", "x" * 10_240),
        ("{?" + ",".join(f"v{n}*" for n in range(32)) + "}", "?" + "&v=1" * 2560),
        ("{+a}ab{+b}ba{+c}aab{+d}bba{+e}abab{+f}!", "abba" * 2560),
        ("{;a*}{?b*}{&c*}{+d}{#e}{.f*}{/g*}!", ";?&#./" * 1700),
        ("{+a}" + "xy" * 800 + "{+b}" + "xxy" * 100, "xyx" * 3400),
    ],
)
def test_ten_kilobytes_are_quick(template: str, uri: str) -> None:
    """threats.md row 17. Best of three, so that a busy machine does not fail it."""
    compiled = Template.compile(template)
    assert compiled is not None
    taken = []
    for _ in range(3):
        begin = time.perf_counter()
        compiled.matches(uri)
        taken.append(time.perf_counter() - begin)
    assert min(taken) < 0.05


def test_longer_uris_never_match() -> None:
    assert matches("{+x}", "a" * MAX_URI_CHARS)
    assert not matches("{+x}", "a" * (MAX_URI_CHARS + 1))
