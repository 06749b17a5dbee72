"""Sends one message from standard input by smtplib. Options in JSON on the command line.

What sendmail() answers, that is, the recipients that were refused, is printed as JSON.
"""

import email
import email.policy
import json
import smtplib
import ssl
import sys

options = json.loads(sys.argv[1])
content = sys.stdin.buffer.read()

tls = options.get("tls", "off")
context = ssl.create_default_context(cafile=options["authority"]) if tls != "off" else None
if tls == "implicit":
    smtp = smtplib.SMTP_SSL("127.0.0.1", options["port"], "client.example", timeout=20, context=context)
else:
    smtp = smtplib.SMTP("127.0.0.1", options["port"], "client.example", timeout=20)

with smtp:
    if tls == "starttls":
        smtp.starttls(context=context)
    if "user" in options:
        try:
            smtp.login(options["user"], options["password"])
        except smtplib.SMTPAuthenticationError as error:
            print(json.dumps({"login": error.smtp_code}))
            sys.exit(0)
    if options.get("parsed"):
        message = email.message_from_bytes(content, policy=email.policy.SMTPUTF8)
        refused = smtp.send_message(message)
    else:
        parameters = options.get("mail", [])
        refused = smtp.sendmail(options["from"], options["to"], content, parameters, options.get("rcpt", []))
print(json.dumps({"refused": {address: code for address, (code, _) in refused.items()}}))
