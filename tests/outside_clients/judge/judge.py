"""Compares messages as they were sent with what arrived, by Python's email package alone.

    judge.py FOLDER

The folder has NAME.sent and NAME.arrived. Prints a line for each difference, as JSON: name, what, sent, arrived. The
rules: the subject is the same; the text that a reader is shown is the same; every part that has a name, or is not text,
arrives octet for octet; and nothing arrives that was not sent.
"""

import email
import email.message
import email.policy
import hashlib
import html
import json
import pathlib
import re
import sys
import unicodedata

POLICY = email.policy.default


def squeezed(text):
    """Without what no reader sees: kinds of white space, control characters, forms of one letter."""
    text = unicodedata.normalize("NFC", text.replace("\ufeff", ""))
    text = "".join(c if c.isprintable() or c.isspace() else "" for c in text)
    return " ".join(text.split())


def seen(text):
    """Text for comparing: unknown octets are shown in more than one way."""
    return re.sub("[\ufffd?]+", "\ufffd", squeezed(text))


def as_leaves(octets):
    """A message in a message is one part, as it was written: the email package would take it apart and write it anew."""
    return re.sub(rb"(?im)^(content-type:\s*)message/", rb"\1application/x-message-", octets)


def octets_of(part):
    try:
        payload = part.get_payload(decode=True)
    except Exception:
        payload = None
    if payload is None:
        # A message in the message: as it was written.
        inner = part.get_payload()
        if isinstance(inner, list):
            payload = b"".join(sub.as_bytes() for sub in inner)
        else:
            payload = str(inner).encode("utf-8", "surrogateescape")
    return payload


def text_of(part):
    octets = octets_of(part)
    charset = part.get_content_charset() or "utf-8"
    if charset in ("us-ascii", "ascii", "unknown-8bit"):
        charset = "utf-8"
    for name in (charset, "utf-8", "windows-1252", "latin-1"):
        try:
            return octets.decode(name)
        except (LookupError, UnicodeError):
            continue
    return octets.decode("utf-8", "replace")


def filename_of(part):
    """By the package's older reader where a name is in pieces: the newer one decodes each for itself."""
    for field, value in part.raw_items():
        if field.lower() == "content-disposition" and "filename*0*" in value.lower():
            older = email.message.Message()
            older[field] = value
            return older.get_filename()
    return part.get_filename()


def is_attached(part):
    return part.get_content_disposition() == "attachment" or bool(filename_of(part))


def leaves(part, is_alternative=False):
    """Every part that is not divided, and whether it stands beside another form of the same."""
    if part.get_content_type() == "message/rfc822" or not part.is_multipart():
        yield part, is_alternative
        return
    inner = is_alternative or part.get_content_type() == "multipart/alternative"
    for child in part.get_payload():
        yield from leaves(child, inner)


def digest(octets):
    """Line ends are none of the content of text, and of a message in the message."""
    return hashlib.sha256(octets).hexdigest()


def loose(octets):
    return hashlib.sha256(b"\n".join(octets.split()).strip()).hexdigest()


def same_where_known(before, after):
    """The email package shows raw octets that are not UTF-8 as unknown."""
    return re.fullmatch(".".join(map(re.escape, before.split("\ufffd"))), after) is not None


def subject_of(message):
    try:
        return squeezed(str(message["subject"] or ""))
    except Exception:
        return None


def shown(message):
    """What a reader is shown, of all texts that could be."""
    texts = []
    for part, _ in leaves(message):
        if part.get_content_type() in ("text/plain", "text/html"):
            texts.append(squeezed(text_of(part)))
    return texts


def compare(name, sent, arrived):
    sent = email.message_from_bytes(as_leaves(sent), policy=POLICY)
    arrived = email.message_from_bytes(as_leaves(arrived), policy=POLICY)

    def differs(what, before, after):
        print(json.dumps({"name": name, "what": what, "sent": before, "arrived": after}))

    before, after = subject_of(sent), subject_of(arrived)
    if before is not None and not same_where_known(seen(before), seen(after or "")):
        differs("subject", before, after)

    # The text that arrived was one of those that were sent.
    body = next((p for p, _ in leaves(arrived) if p.get_content_maintype() == "text" and not is_attached(p)), None)
    text = seen(text_of(body)) if body is not None else ""
    sent_texts = [seen(text) for text in shown(sent)]
    if text and text not in sent_texts:
        differs("text", [t[:200] for t in sent_texts], text[:200])
    unnamed = [
        seen(text_of(p)) for p, _ in leaves(sent)
        if p.get_content_type() in ("text/plain", "text/html") and not is_attached(p)
    ]
    if not text and any(unnamed):
        differs("text is lost", [t[:200] for t in unnamed], "")

    # Attachments.
    got = [octets_of(p) for p, _ in leaves(arrived) if p is not body]
    exact, rough = {digest(o) for o in got}, {loose(o) for o in got}
    for part, is_alternative in leaves(sent):
        kind = part.get_content_maintype()
        octets = octets_of(part)
        must = is_attached(part) or kind not in ("text", "multipart")
        if not must or not octets.strip():
            continue
        if is_alternative and not is_attached(part) and kind == "text":
            continue
        if seen(text_of(part)) == text and kind == "text":
            continue
        if digest(octets) in exact or loose(octets) in rough:
            continue
        differs("attachment", f"{part.get_content_type()} {filename_of(part)} {len(octets)}", len(got))
    all_sent = {loose(octets_of(p)) for p, _ in leaves(sent)}
    for octets in got:
        if octets.strip() and loose(octets) not in all_sent:
            differs("invented", "", repr(octets[:80]))

    names = {squeezed(filename_of(p)) for p, _ in leaves(arrived) if p is not body and filename_of(p)}
    for part, _ in leaves(sent):
        given = filename_of(part)
        if given and octets_of(part).strip() and seen(text_of(part)) != text:
            last = squeezed(re.split(r"[/\\\\]", given)[-1])
            known = any(same_where_known(last, name) for name in names)
            if len(last) <= 200 and last.strip(".") and not known:
                differs("name", given, sorted(names))


def main():
    folder = pathlib.Path(sys.argv[1])
    for sent in sorted(folder.glob("*.sent")):
        arrived = sent.with_suffix(".arrived")
        if arrived.exists():
            try:
                compare(sent.stem, sent.read_bytes(), arrived.read_bytes())
            except Exception as error:
                print(json.dumps({"name": sent.stem, "what": "the judge fails", "sent": repr(error), "arrived": ""}))


main()
