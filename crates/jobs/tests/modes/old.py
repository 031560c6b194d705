"""An application of before: it knows Fernet, by PyPI's cryptography, and no envelopes.

Each line of standard input is `["write", [TEXT, …]]` or `["read", [STORED, …]]`; each line of standard output is what became of
the texts. It ends with an error at the first value that it cannot read.
"""

import json
import sys

from cryptography.fernet import Fernet

fernet = Fernet(sys.argv[1])
does = {"write": fernet.encrypt, "read": fernet.decrypt}
for line in sys.stdin:
    verb, texts = json.loads(line)
    print(json.dumps([does[verb](text.encode()).decode() for text in texts]), flush=True)
