"""The examiner: grades any runtime by its events. Imports vocabulary only, never what it grades.

`grade(factory)` drives a subject and returns a `Verdict`; `grade_trace(read_trace(path))` judges a recorded trace.
`subject` says what a runtime must offer, `profiles` what it can be graded as, `report` writes a verdict down.
"""

from __future__ import annotations

from tenure.conformance.finding import Finding, Status
from tenure.conformance.grade import grade, grade_trace
from tenure.conformance.profiles import Profile
from tenure.conformance.report import write_report
from tenure.conformance.subject import Subject, SubjectFactory
from tenure.conformance.trace import read_trace
from tenure.conformance.verdict import ProfileOutcome, Verdict

__all__ = [
    "Finding",
    "Profile",
    "ProfileOutcome",
    "Status",
    "Subject",
    "SubjectFactory",
    "Verdict",
    "grade",
    "grade_trace",
    "read_trace",
    "write_report",
]
