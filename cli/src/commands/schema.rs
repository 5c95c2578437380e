//! `portolan schema`.

use crate::args::{Output, SchemaArgs};
use crate::exit::Failure;
use crate::render;

pub(crate) fn run(args: &SchemaArgs) -> Result<(), Failure> {
    let kind = super::get::kind(&args.kind)?;
    render::value(Output::Json, &portolan_compiler::schema(kind), String::new)
}
