"""Gets tokens by MSAL for Python, as a program of Microsoft's customers would.

One JSON object on the command line: "how" says which function below, the rest are its options. What MSAL returns is
printed, one JSON value a line.

MSAL knows no ports, and goes to the login service under its real name. That name is made to lead to the simulated one, and
nothing else leads anywhere.
"""

import json
import sys
import time
import uuid
import warnings

import jwt
import msal
import requests
import urllib3.util.connection

LOGIN = "login.microsoftonline.com"
GRAPH = ["https://graph.microsoft.com/.default"]
EXCHANGE = ["https://outlook.office365.com/.default"]

options = json.loads(sys.argv[1])
connect = urllib3.util.connection.create_connection


def connect_here(address, *arguments, **more):
    if address == (LOGIN, 443):
        address = ("127.0.0.1", options["front"])
    if address[0] not in ("127.0.0.1", "localhost"):
        raise OSError(f"{address} is not of this test")
    return connect(address, *arguments, **more)


urllib3.util.connection.create_connection = connect_here


def show(value):
    print(json.dumps(value), flush=True)


def confidential(credential, authority=f"https://{LOGIN}/contoso.example", **more):
    return msal.ConfidentialClientApplication(
        options["client_id"],
        authority=authority,
        client_credential=credential,
        verify=options["ca"],
        **more,
    )


def public():
    return msal.PublicClientApplication(
        options["client_id"],
        authority=f"https://{LOGIN}/{options.get('directory', 'contoso.example')}",
        verify=options["ca"],
    )


def credential():
    """A secret, or a certificate, or what an outside issuer gives out."""
    if "issuer" in options:
        # MSAL asks for a new one each time.
        return {"client_assertion": issue}
    return options["credential"]


def issue():
    now = int(time.time())
    claims = {
        "iss": options["issuer"],
        "sub": options["subject"],
        "aud": "api://AzureADTokenExchange",
        "iat": now,
        "nbf": now,
        "exp": now + 3600,
        "jti": str(uuid.uuid4()),
    }
    return jwt.encode(claims, options["key"], algorithm="RS256", headers={"kid": "1"})


def application():
    app = confidential(credential())
    show(app.acquire_token_for_client(GRAPH))
    show(app.acquire_token_for_client(EXCHANGE))
    # MSAL has it still, and asks nobody.
    show(app.acquire_token_for_client(GRAPH))


def application_at_a_port():
    authority = f"https://localhost:{options['front']}/contoso.example"
    # The central service does not know this one, and MSAL forgets the port when it asks.
    app = confidential(credential(), authority, instance_discovery=False)
    show(app.acquire_token_for_client(GRAPH))


def password():
    app = public()
    show(app.acquire_token_by_username_password(options["user"], "wrong", scopes=options["scopes"]))
    show(app.acquire_token_by_username_password(options["user"], options["password"], scopes=options["scopes"]))
    (account,) = app.get_accounts()
    # Twice, so that the second uses what the first brought.
    for _ in range(2):
        show(app.acquire_token_silent(options["scopes"], account=account, force_refresh=True))


def refresh():
    app = public()
    first = app.acquire_token_by_username_password(options["user"], options["password"], scopes=options["scopes"])
    for _ in range(2):
        show(app.acquire_token_by_refresh_token(first["refresh_token"], scopes=options["scopes"]))


def device():
    app = public()
    flow = app.initiate_device_flow(scopes=options["scopes"])
    show(flow)
    show(app.acquire_token_by_device_flow(flow))


def managed():
    identity = msal.SystemAssignedManagedIdentity()
    if "assigned" in options:
        identity = msal.UserAssignedManagedIdentity(**options["assigned"])
    if "arc_secrets" in options:
        # The one folder that an agent may name files of.
        msal.managed_identity._supported_arc_platforms_and_their_prefixes["linux"] = options["arc_secrets"]
    client = msal.ManagedIdentityClient(identity, http_client=requests.Session())
    show(client.acquire_token_for_client(resource=options["resource"]))


warnings.simplefilter("ignore", DeprecationWarning)
globals()[options["how"]]()
