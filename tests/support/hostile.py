"""Strings with a special meaning to a shell, to sbatch, in a path or in a template."""

CANARY = "canary"
_SHELL = """
$(touch {})
`touch {}`
; touch {};
&& touch {}
| touch {}
'; touch {}; '
"; touch {}; "
$((1))
${IFS}
> {}
<(touch {})
\\
'
"
'"'"'
$
!!
*
?
~
a b
#
{{ 7 * 7 }}
{% raw %}
%j%x%u
$'\\x41'
\\$(touch {})
&
#SBATCH --wrap='touch {}'
--wrap=touch {}
-o{}
--
-
--export=ALL
..
../..
/../../etc/passwd
a/../../b
/dev/stdin
/proc/self/environ
größe
日本語
👩🚀
None
null
NaN
!!python/object/apply:os.system ['touch {}']
&a *a
- x: 1
"""
_CONTROL = [
    "", " ", "\t", "\0", "\x1f", "\x7f", "\u202e", "\ufeff", "\u2028", "e\u0301", "\n touch {}\n",
    "\n#SBATCH --output={}", "\r\n#SBATCH --nodes=2", "\n$(touch {})", "x" * 5000,
]  # fmt: skip
# A shell, sbatch or YAML would interpret these.
MARKS = "$`;&|\n'\"\\{}!*?#%<>\0\x1f\x7f\r~ "


def strings(canary: str) -> list[str]:
    """Return all hostile strings; a string that is executed creates the file `canary`."""
    return [text.replace("{}", canary) for text in (*_SHELL.strip().splitlines(), *_CONTROL)]


# Contexts of each string: at the start of a word, inside, at its end, as a path, as an option.
WRAPS = ("{}", "a{}", "{}a", "/{}", "--x={}", "a b{}", "{0}{0}", "'{}'", '"{}"')


def wrapped_strings(canary: str) -> list[str]:
    """Return more than 500 hostile strings: each string in each context."""
    return list(dict.fromkeys(wrap.format(text) for text in strings(canary) for wrap in WRAPS))


MARKED = [text for text in strings(CANARY) if any(mark in text.strip() for mark in MARKS.strip())]
