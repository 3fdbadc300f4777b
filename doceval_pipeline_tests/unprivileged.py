"""Work done as a user who may do nothing special, also where the tests run as root."""

import json
import os
import traceback
from collections.abc import Callable
from typing import Any

NOBODY = 65534


def unprivileged(work: Callable[[], Any], user: int = NOBODY) -> Any:
    """What a function gives, as JSON can carry it, in a fork that gave up root.

    A fork, because the interpreter may lie where that user cannot read it.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        # Nothing of this process may go on in the child, least of all its tests.
        ended = 1
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(user, user, user)
                os.setresuid(user, user, user)
            os.write(writer, json.dumps(work()).encode())
            ended = 0
        except BaseException:
            traceback.print_exc()
            raise
        finally:
            os._exit(ended)
    os.close(writer)
    with os.fdopen(reader) as answer:
        given = answer.read()
    assert os.waitpid(child, 0)[1] == 0
    return json.loads(given)
