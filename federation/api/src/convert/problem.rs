//! Problems with declarations. They are for people to read, so nothing in them is refused.

use portolan_model::problem::{Position, Problem, Severity};

use crate::admin;

impl From<&Problem> for admin::Problem {
    fn from(problem: &Problem) -> Self {
        let position = problem.position.as_ref();
        Self {
            warning: problem.severity == Severity::Warning,
            resource: problem.resource.clone().unwrap_or_default(),
            file: position.map(|at| at.file.clone()).unwrap_or_default(),
            line: position.map(|at| at.line).unwrap_or_default(),
            column: position.map(|at| at.column).unwrap_or_default(),
            path: problem.path.clone(),
            message: problem.message.clone(),
            remedy: problem.remedy.clone(),
        }
    }
}

impl From<admin::Problem> for Problem {
    fn from(problem: admin::Problem) -> Self {
        let position = (!problem.file.is_empty()).then_some(Position {
            file: problem.file,
            line: problem.line,
            column: problem.column,
        });
        Self {
            severity: if problem.warning {
                Severity::Warning
            } else {
                Severity::Error
            },
            resource: (!problem.resource.is_empty()).then_some(problem.resource),
            position,
            path: problem.path,
            message: problem.message,
            remedy: problem.remedy,
        }
    }
}
