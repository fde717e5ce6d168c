"""An expression over metadata that says which samples to keep."""

import ast
import json

from mmcl.errors import MmclError

FUNCTIONS = {"int": int, "float": float, "str": str, "len": len, "abs": abs, "min": min, "max": max}


class Where:
    """An expression such as ``width >= 256 and language in ["de", "en"]`` over the fields of a JSON object.

    It is computed by simpleeval: operators, methods of texts, and the functions above; no code is run.

    Args:
        expression: in Python's syntax; a nested field is ``size["width"]``.

    Raises:
        MmclError: it is no expression.
    """

    def __init__(self, expression: str) -> None:
        import simpleeval  # an extra: only those who filter need it

        self.expression, self._invalid = expression, simpleeval.InvalidExpression
        self.fields: set[str] = set()  # that were met, for messages
        allowed = simpleeval.BASIC_ALLOWED_ATTRS
        self._evaluator = simpleeval.EvalWithCompoundTypes(functions=FUNCTIONS.copy(), allowed_attrs=allowed)
        try:
            self._tree = ast.parse(expression.strip(), mode="eval").body
        except (SyntaxError, ValueError) as error:
            raise MmclError(f"where: {expression!r} is no expression ({error}).") from None

    def reason(self, data: bytes | None) -> str | None:
        """Why a sample with this JSON member is not to be kept; None where it is.

        An expression that cannot be computed (no such field, a text compared with a number) is a reason of its own.
        """
        try:
            record = json.loads(data or b"")
            self.fields |= record.keys()
        except (ValueError, AttributeError):
            return "where: no JSON object"
        self._evaluator.names = record
        try:
            return None if self._evaluator.eval(self.expression, self._tree) else "where: false"
        except self._invalid as error:
            name = getattr(error, "name", None)
            return f"where: no field {name!r}" if name else f"where: {error}"
        except ValueError:  # its text holds the value, and a reason is one that many samples share
            return "where: ValueError"
        except Exception as error:  # whatever else the values of one sample bring about
            return f"where: {type(error).__name__}: {error}"
