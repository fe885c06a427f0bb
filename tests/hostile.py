"""Strings that mean something else to a shell, to sbatch, to a path or to a template."""

CANARY = "canary"
_SHELL = [
    "$(touch {})", "`touch {}`", "; touch {};", "&& touch {}", "| touch {}", "\n touch {}\n", "'; touch {}; '",
    '"; touch {}; "', "$((1))", "${{IFS}}", "> {}", "<(touch {})", "\\", "'", '"', "'\"'\"'", "$", "!!", "*", "?", "~",
    "a b", "\t", "#", "{{{{ 7 * 7 }}}}", "{{% raw %}}", "%j%x%u", "$'\\x41'", "\\$(touch {})", "`", "||true", "&",
]  # fmt: skip
_SBATCH = [
    "\n#SBATCH --output={}", "#SBATCH --wrap='touch {}'", "\r\n#SBATCH --nodes=2", "--wrap=touch {}", "-o{}",
    "--", "-", "--export=ALL", "-J x",
]  # fmt: skip
_PATHS = ["..", "../..", "/../../etc/passwd", "./", "//", "a/../../b", "/dev/stdin", "/proc/self/environ"]
_TEXT = [
    "", " ", "\0", "\x1f", "\x7f", "\u202e", "\ufeff", "\u2028", "größe", "日本語", "👩‍🚀", "e\u0301", "x" * 2000,
    "None", "null", "true", "0", "NaN", "[]", "!!python/object/apply:os.system ['touch {}']", "&a *a", "- x: 1", "|",
]  # fmt: skip


def strings(canary: str) -> list[str]:
    """All of them; those that would run something make a file of this name."""
    return [text.format(canary) for text in (*_SHELL, *_SBATCH, *_PATHS)] + [
        text.replace("{}", canary) for text in _TEXT
    ]


# In a profile or a script, these would be read otherwise: some harmless words are left out.
HOSTILE = [
    text
    for text in strings(CANARY)
    if text.strip("./") and any(one in text for one in "$`;&|\n'\"\\{}!*?#%<>\0\x1f\x7f\r")
]
