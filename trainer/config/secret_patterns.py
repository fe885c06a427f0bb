"""Names and texts that hold secrets: no request may contain one, and no message repeats one. Pure.

Formats of the tokens: each vendor documents its prefix, so that scanners find a token that was published.
"""

import re
from functools import partial
from itertools import pairwise
from urllib.parse import unquote

HIDDEN = "***"
MAX_DECODED = 3
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
AMBIGUOUS = frozenset({"token", "auth", "secret", "secrets"})
"""Names of labels that may be about something else: a number of tokens, how users log in."""
NOTHING = r"true|false|null|none|no|yes|off|on|n/a|required|optional|enabled|disabled"
NO_VALUE = re.compile(rf"(?:{NOTHING}|-)?", re.IGNORECASE)
SHORT = re.compile(
    rf"[a-z]{{1,8}}|oauth2|saml2|\d{{1,5}}(?:\.\d{{1,3}})?[a-z]{{0,2}}|{NO_VALUE.pattern}", re.IGNORECASE
)
"""A word, or a number with a unit: shorter than any token, and no password has this form."""
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


def is_secret_label(name: str, value: object) -> bool:
    """Whether a label is a secret by its name: `password: hunter2`, but not `token: 4b` or `auth: sso`."""
    if not is_secret_value(name, value):
        return False
    pattern = SHORT if name.lower() in AMBIGUOUS else NO_VALUE
    return pattern.fullmatch(str(value)) is None


# -- texts -----------------------------------------------------------------------------------------

NAMED = (
    r"pass(?:word|wd|phrase)|(?<=;)pwd|api[-_]?key|client[-_]?secret|authorization"
    r"|(?:access|account|auth|hf|private|refresh|secret|session)[-_]?(?:key|token)"
)
RANDOM = r"(?=(?:[a-z0-9_-]{0,30}[A-Z]){4})"
"""Random characters have many capitals. The name of a directory has not: it may begin like a token."""
DIGIT = r"(?=[A-Za-z_-]{0,26}\d)(?=[a-z0-9_-]{0,26}[A-Z])"
"""Of tokens of one length, which a name seldom has."""
TOKENS = (
    # Hugging Face: of a user, of an organization.
    r"hf_(?:[A-Za-z0-9]{34}(?![A-Za-z0-9])|(?=[a-z0-9]{0,33}[A-Z])(?=[A-Z0-9]{0,33}[a-z])[A-Za-z0-9]{34,})",
    r"api_org_[A-Za-z]{34}",
    # Of this service: 32 bytes in base64url, see worker/auth/keys.py.
    rf"sft_(?:[A-Za-z0-9]{{43}}|{RANDOM}[\w-]{{43}})(?![\w-])",
    r"gh[pousr]_[A-Za-z0-9]{36,}", rf"github_pat_{RANDOM}\w{{22,}}",
    rf"gl(?:pat|rt|dt|ptt|cbt|ft|soat|agent)-(?:{RANDOM}[\w-]{{20,}}|{DIGIT}[\w-]{{20}}(?![\w-]))",
    r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Za-z0-9])",  # AWS
    r"xox[abeprs]-\d[A-Za-z0-9-]{10,}",  # Slack
    r"sk-(?:(?=[A-Za-z]{0,31}\d)[A-Za-z0-9]{32,}|[A-Za-z0-9]{48,})",
    rf"sk-(?:ant|proj|svcacct|admin)-{RANDOM}[\w-]{{20,}}",
    r"[rs]k_(?:live|test)_[A-Za-z0-9]{24,}",  # Stripe
    r"nvapi-[\w-]{60,}", r"AIza[\w-]{35}", rf"ya29\.{RANDOM}[\w-]{{20,}}",  # NVIDIA, Google
    rf"wandb_v1_{RANDOM}\w{{20,}}", r"npm_[A-Za-z0-9]{36}", r"pypi-AgE[\w-]{20,}",
    rf"dckr_pat_(?:{RANDOM}[\w-]{{20,}}|{DIGIT}[\w-]{{27}}(?![\w-]))",  # Docker
    r"dapi[0-9a-f]{32}(?![A-Za-z0-9])",  # Databricks
    r"eyJhcGlfYWRkcmVzcyI6[\w+/=-]{20,}",  # Neptune: {"api_address": in base64
    r"eyJ[\w-]{10,400}\.eyJ[\w-]{10,}(?:\.[\w-]*)?",  # JSON web token, RFC 7519
)  # fmt: skip
DATABASE = r"(?:postgres(?:ql)?|mysql|mariadb|mssql|oracle|mongodb|rediss?|amqps?)(?:\+\w{1,20})?"
OTHERS = (
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY[^\"]*",  # RFC 7468
    r"[Bb]earer [\w.~+/-]{20,}=*", r"Basic [A-Za-z0-9+/]{16,}={1,2}",  # RFC 6750, RFC 7617
    # User information of a URL, RFC 3986, with a password, or as long as a token; a name such as git is none.
    # Lenient readers take other slashes, too.
    r"(?i:[a-z][a-z0-9+.-]{0,20}:[/\\]+)(?:[^\s/\\?#@\":]*:[^\s/\\?#@\"]+|[^\s/\\?#@\":]{16,})@",
    rf"(?i:{DATABASE}://[^\s/@\":]{{0,256}}:[^\s@\"]{{1,256}})@",  # SQLAlchemy reads a slash in a password
    r"(?<![A-Z0-9_])[A-Z0-9_]*(?:TOKEN|SECRET|_KEY)=(?!\d+\b)[^\s\"'<\[]{8,}",  # an environment variable
    rf"(?i:(?:{NAMED})[\"']?\s*[:=]\s*[\"']?)(?!(?i:{NOTHING})\b)[^\s\"',;&}}\]]{{4,}}",
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
    while len(texts) <= MAX_DECODED and (plain := unquote(texts[-1])) != texts[-1]:
        texts.append(plain)
    return texts
