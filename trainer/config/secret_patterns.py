"""Names and texts that hold secrets: no request may contain one, and no message repeats one. Pure.

Formats of the tokens: each vendor documents its prefix, so that scanners find a token that was published.
"""

import re
from functools import partial
from itertools import pairwise
from urllib.parse import unquote

HIDDEN = "***"
MOST_DECODED = 3
"""How often percent-encoding is undone: a text may be encoded more than once."""

# -- names -----------------------------------------------------------------------------------------

WORDS = frozenset({
    "password", "passwd", "passphrase", "passcode", "pwd", "secret", "secrets", "credential", "credentials",
    "authorization", "bearer", "jwt", "cookie", "cookies", "apikey", "apikeys", "apitoken", "accesskey",
    "accesstoken", "authtoken", "secretkey", "privatekey", "pgpass", "htpasswd",
})  # fmt: skip
# A key or token with one of these words before it. `linear_key_head_dim` and `query_key` have none.
OWNERS = frozenset({
    "api", "access", "account", "auth", "aws", "azure", "client", "comet", "deploy", "encryption", "github",
    "gitlab", "google", "hf", "hub", "huggingface", "license", "login", "master", "mlflow", "neptune",
    "ngc", "nvidia", "oauth", "openai", "personal", "private", "refresh", "rsa", "secret", "service",
    "session", "signing", "ssh", "storage", "tracking", "wandb",
})  # fmt: skip
PAIRS = frozenset(
    {("connection", "string"), ("conn", "str"), ("private", "pem"), ("pass", "word"), ("pass", "phrase")}
)
KINDS = frozenset({"key", "keys", "token", "tokens", "creds", "pass", "pat", "sas"})
LAST = frozenset({"token", "auth"})
# Tokens of a vocabulary end in `token`, too: eos_token, image_token.
VOCABULARY = frozenset({
    "additional", "assistant", "audio", "begin", "bod", "boi", "bos", "boundary", "cls", "decoder",
    "end", "eod", "eoi", "eos", "eot", "extra", "fim", "first", "image", "img", "last", "mask", "model",
    "new", "next", "pad", "padding", "per", "placeholder", "prefix", "reasoning", "response", "role",
    "sep", "special", "start", "stop", "suffix", "system", "think", "tool", "turn", "unk", "video",
    "vision",
})  # fmt: skip
PART = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
"""A word of a name in snake_case, kebab-case, CamelCase or capitals."""
MARKER = re.compile(r"<[^<>]*>|\[[^\[\]]*\]|")
"""A token of a vocabulary, or nothing."""
SENTENCE = re.compile(r"\b(API key|password|passphrase|access token|credentials?)\b", re.IGNORECASE)


def describes_secret(text: str) -> bool:
    """Whether the first sentence of a field's description says that the field holds a secret."""
    return SENTENCE.search(text.partition(".")[0]) is not None


def is_secret_name(name: str) -> bool:
    """Whether a key or field of this name holds a secret: `comet_api_key`, but not `num_tokens`."""
    words = [word.lower() for word in PART.findall(name)]
    return not WORDS.isdisjoint(words) or _names_token(words)


def _names_token(words: list[str]) -> bool:
    pairs = set(pairwise(words))
    if not PAIRS.isdisjoint(pairs) or any(one in OWNERS and kind in KINDS for one, kind in pairs):
        return True
    *before, last = words or [""]
    return last in LAST and VOCABULARY.isdisjoint(before)


def is_secret_value(name: str, value: object) -> bool:
    """Whether a value is a secret by its name. `use_auth_token: true` and `user_token: <|user|>` are none."""
    is_marker = isinstance(value, str) and MARKER.fullmatch(value)
    return not (value is None or isinstance(value, bool) or is_marker) and is_secret_name(name)


# -- texts -----------------------------------------------------------------------------------------

NAMED = (
    r"pass(?:word|wd|phrase)|api[-_]?key|(?:access|secret|private|auth)[-_]?(?:key|token)|client[-_]?secret"
    r"|authorization"
)
TOKENS = (
    r"hf_[A-Za-z0-9]{20,}",  # Hugging Face
    # Of this service: 43 random characters. A directory such as sft_of_this_model has words instead.
    r"sft_(?:[A-Za-z0-9]{32,}|(?=[\w-]{0,42}[a-z])(?=[\w-]{0,42}[A-Z])(?=[\w-]{0,42}[0-9])[\w-]{43}(?![\w-]))",
    r"gh[pousr]_[A-Za-z0-9]{20,}", r"github_pat_\w{20,}", r"glpat-[\w-]{16,}",
    r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])",  # AWS
    r"xox[abeprs]-[A-Za-z0-9-]{10,}",  # Slack
    r"sk-[A-Za-z0-9]{32,}", r"sk-(?:ant|proj|svcacct)-[\w-]{20,}", r"[rs]k_(?:live|test)_[A-Za-z0-9]{16,}",
    r"nvapi-[\w-]{20,}", r"AIza[\w-]{35}", r"ya29\.[\w-]{20,}",  # NVIDIA, Google
    r"wandb_v1_\w{20,}", r"npm_[A-Za-z0-9]{36}", r"pypi-AgE[\w-]{20,}", r"dckr_pat_[\w-]{20,}",
    r"eyJ[\w-]{10,400}\.eyJ[\w-]{10,}(?:\.[\w-]*)?",  # JSON web token, RFC 7519
)  # fmt: skip
OTHERS = (
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY[^\"]*",  # RFC 7468
    r"[Bb]earer [\w.~+/-]{20,}=*", r"Basic [A-Za-z0-9+/]{16,}={1,2}",  # RFC 6750, RFC 7617
    # User information of a URL, RFC 3986, with a password, or as long as a token; a name such as git is none.
    # Lenient readers take other slashes, too.
    r"(?i:[a-z][a-z0-9+.-]{0,20}:[/\\]+)(?:[^\s/\\?#@\":]*:[^\s/\\?#@\"]+|[^\s/\\?#@\":]{16,})@",
    r"(?<![A-Z0-9_])[A-Z0-9_]*(?:TOKEN|SECRET|_KEY)=(?!\d+\b)[^\s\"'<\[]{8,}",  # an environment variable
    rf"(?i:(?:{NAMED})[\"']?\s*[:=]\s*[\"']?)(?!(?i:true|false|null|none)\b)[^\s\"',;&}}\]]{{4,}}",
)  # fmt: skip
SECRET = re.compile("|".join([*(f"(?<![A-Za-z0-9]){one}" for one in TOKENS), *OTHERS]), re.ASCII)
PARAMETER = re.compile(r"(?<=[?&;#])([^\s?&;#=]+)=([^\s&;#\"]+)")
"""A parameter in the query or fragment of a URL."""
SIGNATURES = ("key", "sig", "signature")


def holds_secret(text: str) -> bool:
    """Whether a text contains a token, a private key, or a URL with a password or token."""
    return any(SECRET.search(one) or any(map(_is_secret, PARAMETER.finditer(one))) for one in _decoded(text))


def redacted(text: str) -> str:
    """Return the text with its secrets replaced by `***`; all of it if a part would remain."""
    shown = PARAMETER.sub(partial(_without_value), SECRET.sub(HIDDEN, text))
    return HIDDEN if holds_secret(shown) else shown


def _without_value(parameter: re.Match[str]) -> str:
    return f"{parameter[1]}={HIDDEN}" if _is_secret(parameter) else parameter[0]


def _is_secret(parameter: re.Match[str]) -> bool:
    name = parameter[1].lower()
    return parameter[2] != HIDDEN and (
        name in SIGNATURES or is_secret_name(name) or name.endswith("-signature")
    )


def _decoded(text: str) -> list[str]:
    """The text as it is, and with its percent-encoding undone."""
    texts = [text]
    while len(texts) <= MOST_DECODED and (plain := unquote(texts[-1])) != texts[-1]:
        texts.append(plain)
    return texts
