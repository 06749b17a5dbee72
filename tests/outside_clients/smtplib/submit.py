"""Submits one message from standard input with a token, by smtplib. Options in JSON on the command line.

The code and the text that the server ended with are printed as JSON.
"""

import json
import smtplib
import ssl
import sys

options = json.loads(sys.argv[1])
content = sys.stdin.buffer.read()


def xoauth2(challenge=None):
    return f"user={options['user']}\x01auth=Bearer {options['token']}\x01\x01"


with smtplib.SMTP(options["host"], options["port"], "client.example", timeout=20) as smtp:
    smtp.starttls(context=ssl.create_default_context(cafile=options["authority"]))
    smtp.ehlo()
    try:
        smtp.auth("XOAUTH2", xoauth2, initial_response_ok=options["initial_response"])
    except smtplib.SMTPAuthenticationError as error:
        print(json.dumps({"login": error.smtp_code, "text": error.smtp_error.decode()}))
        sys.exit(0)
    smtp.mail(options["from"], ["SIZE=%d" % len(content), "BODY=8BITMIME"])
    for address in options["to"]:
        smtp.rcpt(address)
    code, text = smtp.data(content)
print(json.dumps({"code": code, "text": text.decode()}))
