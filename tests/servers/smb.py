"""What a Windows PC asks of a share and smbclient does not: smb.py SMB_CONF PROTOCOL STEP...

create NAME | size BYTES | write FILE FROM TO | close | cut

Each step is answered with a line: ok, or what the server said. `write` sends those bytes of FILE to their
place; `cut` ends without a goodbye.
"""

import os
import sys

from samba import NTSTATUSError, credentials
from samba.samba3 import libsmb_samba_internal as libsmb
from samba.samba3 import param

conf, protocol, *steps = sys.argv[1:]
settings = param.get_context()
settings.load(conf)
settings.set("client max protocol", protocol)
user = credentials.Credentials()
user.guess(settings)
user.set_username("instrument")
user.set_password("any")
share = libsmb.Conn("127.0.0.1", "arrays", settings, user)
number = None
for step in steps:
    word, *arguments = step.split()
    try:
        if word == "create":
            # Anew, if it is there; for reading and writing.
            number = share.create(arguments[0], DesiredAccess=0x12019F, CreateDisposition=5, ShareAccess=7)
        elif word == "size":
            share.truncate(number, int(arguments[0]))
        elif word == "write":
            start, end = map(int, arguments[1:])
            with open(arguments[0], "rb") as file:
                data = file.read()[start:end]
            for at in range(0, len(data), 32768):
                part = data[at : at + 32768]
                assert share.write(number, part, start + at) == len(part)
        elif word == "close":
            share.close(number)
        elif word == "cut":
            sys.stdout.flush()
            os._exit(0)
    except NTSTATUSError as error:
        print(f"{word}: {error.args[1]}")
    else:
        print(f"{word}: ok")
