//! Every function, declared once: the parser, the type check, the evaluator and the docs read this.

use crate::syntax::tree::ValueType;

/// One function of the language.
#[derive(Debug)]
pub struct Function {
    pub name: &'static str,
    /// Types of the arguments. With `optional` = n > 0 the last n may be left out; with `repeats` the last
    /// type may stand any number of times (also not at all).
    pub args: &'static [ValueType],
    pub optional: u8,
    pub repeats: bool,
    pub returns: ValueType,
    pub experimental: bool,
}

impl PartialEq for Function {
    fn eq(&self, other: &Function) -> bool {
        self.name == other.name
    }
}
