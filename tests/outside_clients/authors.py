"""Reads headers, one in base64 a line, and writes whom Python takes for the author: a list in JSON for each.

Both of its parsers: the old one of email.utils, and the one of email.headerregistry.
"""

import base64
import email.policy
import json
import sys
from email.parser import BytesParser
from email.utils import getaddresses


def mailboxes(octets):
    try:
        new = BytesParser(policy=email.policy.default).parsebytes(octets, headersonly=True)
        for field in new.get_all("from") or []:
            yield from (address.addr_spec for address in field.addresses)
    except Exception:
        # Some twisted fields are too much for it: then it reads nothing.
        pass
    old = BytesParser(policy=email.policy.compat32).parsebytes(octets, headersonly=True)
    yield from (address for _, address in getaddresses([str(field) for field in old.get_all("from") or []]))


for line in sys.stdin:
    read = mailboxes(base64.b64decode(line))
    # Octets that are no UTF-8 are half a surrogate each, which is not for JSON.
    print(json.dumps([text.encode("utf-8", "surrogateescape").decode("utf-8", "replace") for text in read]))
