"""Writes messages of every make that Python's email package can write: generate.py FOLDER COUNT SEED."""

import pathlib
import random
import re
import sys
from email import charset as charsets
from email import encoders
from email.header import Header
from email.mime.base import MIMEBase
from email.mime.message import MIMEMessage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import encode_rfc2231

TEXTS = {
    "us-ascii": ["Monthly report", "See the file", "Invoice 4711, due on Friday"],
    "iso-8859-1": ["Grüße aus Köln", "Größe: ½ Meter", "déjà vu"],
    "iso-8859-2": ["Zażółć gęślą jaźń", "Příliš žluťoučký"],
    "iso-8859-15": ["Preis: 5 €", "Œuvre complète"],
    "windows-1252": ["“Quoted” – 5 €", "Café — naïve"],
    "windows-1251": ["Привет, мир", "Отчёт за май"],
    "koi8-r": ["Здравствуйте", "Счёт"],
    "iso-8859-7": ["Καλημέρα κόσμε"],
    "windows-1255": ["שלום עולם"],
    "iso-2022-jp": ["日本語のテスト", "請求書"],
    "shift_jis": ["こんにちは世界"],
    "euc-jp": ["東京都"],
    "euc-kr": ["안녕하세요"],
    "gb2312": ["你好，世界"],
    "gb18030": ["中文报告"],
    "big5": ["繁體中文"],
    "utf-8": ["Grüße 日本 Привет €", "🙂 emoji", "Ünïcödé"],
    "utf-7": ["Grüße"],
}
for name in TEXTS:
    # The package would write some of them in other character sets, or under the names of its own codecs.
    charsets.CODEC_MAP.pop(name, None)
    charsets.add_charset(name, charsets.QP if name.startswith(("iso-8859", "windows")) else charsets.BASE64, None, name)


def sample(rng, ascii_only=False):
    charset = "us-ascii" if ascii_only or rng.random() < 0.2 else rng.choice(sorted(TEXTS))
    return charset, rng.choice(TEXTS[charset])


def text_part(rng, kind):
    charset, text = sample(rng)
    lines = [text] + [rng.choice(TEXTS[charset]) for _ in range(rng.randrange(4))]
    body = "\n".join(lines) + "\n"
    if kind == "html":
        body = "<html><body>" + "".join(f"<p>{line}</p>" for line in lines) + "</body></html>\n"
    part = MIMEBase("text", kind, charset=charset)
    octets = body.encode(charset)
    encoding = rng.choice(["base64", "quoted-printable", "8bit"])
    if charset in ("iso-2022-jp", "utf-7", "us-ascii") and encoding == "8bit":
        encoding = "7bit"
    part.set_payload(octets)
    if encoding == "base64":
        encoders.encode_base64(part)
    elif encoding == "quoted-printable":
        encoders.encode_quopri(part)
    else:
        part.set_payload(octets.decode("ascii", "surrogateescape"))
        part["Content-Transfer-Encoding"] = encoding
    return part


def name_header(rng, part, disposition):
    charset, stem = sample(rng)
    extension = rng.choice([".pdf", ".docx", ".png", ".txt", ".tar.gz"])
    name = stem.replace(":", "").replace("“", "").replace("”", "") + extension
    form = rng.randrange(5)
    if form == 0 or charset == "utf-7":
        name = f"file{rng.randrange(1000)}{extension}"
        part.add_header("Content-Disposition", disposition, filename=name)
    elif form == 1:
        part.add_header("Content-Disposition", disposition, filename=(charset, "", name))
    elif form == 2:
        word = Header(name, charset, maxlinelen=10_000).encode()
        part["Content-Disposition"] = f'{disposition}; filename="{word}"'
    elif form == 3:
        begin, text = f"{charset}''", encode_rfc2231(name, charset).split("'")[2]
        octets = re.findall("%..|.", text)
        pieces = [begin] + ["".join(octets[i:i + 8]) for i in range(0, len(octets), 8)]
        joined = ";\n ".join(f"filename*{n}*={piece}" for n, piece in enumerate(pieces))
        part["Content-Disposition"] = f"{disposition};\n {joined}"
    else:
        part.set_param("name", Header(name, charset, maxlinelen=10_000).encode())
        part["Content-Disposition"] = disposition


def attachment(rng):
    if rng.random() < 0.15:
        return MIMEMessage(message(rng, depth=2))
    main, sub = rng.choice([("application", "pdf"), ("application", "octet-stream"), ("image", "png"), ("audio", "mpeg")])
    part = MIMEBase(main, sub)
    part.set_payload(rng.randbytes(rng.randrange(1, 3000)))
    encoders.encode_base64(part)
    name_header(rng, part, rng.choice(["attachment", "attachment", "inline"]))
    return part


def body(rng):
    form = rng.randrange(5)
    if form < 2:
        return text_part(rng, ["plain", "html"][form])
    if form == 2:
        whole = MIMEMultipart("alternative")
        whole.attach(text_part(rng, "plain"))
        whole.attach(text_part(rng, "html"))
        return whole
    related = MIMEMultipart("related")
    html = text_part(rng, "html")
    image = MIMEBase("image", "png")
    image.set_payload(rng.randbytes(500))
    encoders.encode_base64(image)
    image["Content-ID"] = "<image@example.net>"
    name_header(rng, image, "inline")
    parts = [html, image]
    if rng.random() < 0.3:
        html["Content-ID"] = "<root@example.net>"
        related.set_param("start", "<root@example.net>")
        parts.reverse()
    for part in parts:
        related.attach(part)
    if form == 3:
        return related
    whole = MIMEMultipart("alternative")
    whole.attach(text_part(rng, "plain"))
    whole.attach(related)
    return whole


def message(rng, depth=0):
    whole = body(rng)
    if rng.random() < 0.7:
        mixed = MIMEMultipart("mixed")
        mixed.attach(whole)
        for _ in range(rng.randrange(1, 4)):
            if depth < 2:
                mixed.attach(attachment(rng))
        whole = mixed
    charset, subject = sample(rng)
    if charset == "utf-7":
        charset = "utf-8"
    whole["Subject"] = Header(subject + " " + rng.choice(TEXTS["us-ascii"]), charset)
    whole["Date"] = "Tue, 24 Nov 2026 10:00:00 +0000"
    whole["Message-ID"] = f"<{rng.randrange(10**12)}@generated.example>"
    whole["MIME-Version"] = "1.0" if "MIME-Version" not in whole else whole["MIME-Version"]
    return whole


def main():
    folder, count, seed = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    rng = random.Random(seed)
    for number in range(count):
        octets = message(rng).as_bytes()
        (folder / f"generated{number:04}.eml").write_bytes(octets)


main()
