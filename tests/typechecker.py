"""The runtime type checker of the tests: beartype, with ``int`` accepted where ``float`` is asked.

That is what static type checkers do (the numeric tower of PEP 484).
"""

from beartype import BeartypeConf, beartype

check = beartype(conf=BeartypeConf(is_pep484_tower=True))
