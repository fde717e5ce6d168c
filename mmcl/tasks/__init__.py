"""What to measure: eval/tasks/*.yaml, read, embedded and handed to an evaluator."""

from mmcl.tasks.ready import ReadyVectors
from mmcl.tasks.result import Result
from mmcl.tasks.spec import SuiteSpec, TaskSpec, expand_suites, find_spec
from mmcl.tasks.store import VectorStore
from mmcl.tasks.task import Measured, Task, load_task

__all__ = [
    "Measured",
    "ReadyVectors",
    "Result",
    "SuiteSpec",
    "Task",
    "TaskSpec",
    "VectorStore",
    "expand_suites",
    "find_spec",
    "load_task",
]
