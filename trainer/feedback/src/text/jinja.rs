//! Jinja templates within limits. A template is a program: without limits, one that comes with a model could use up all
//! memory, time or stack. Computes.
//!
//! Instructions are counted, so that a loop that is too long is rejected after the same instruction everywhere. The
//! cost of a single instruction (a text doubled, a list joined) is limited by the memory and time of [`Confinement`].

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use minijinja::{Environment, ErrorKind, Value};
use plumbline_confined::{Confinement, Exceeded, Limits};

/// Maximum size of a template in bytes. The longest templates of known models have a tenth of it.
const MOST_SOURCE: usize = 256 << 10;
/// Maximum number of characters of an error that are shown.
const MOST_DETAIL: usize = 400;
/// Maximum number of instructions of one rendering: a known template takes some hundred per turn.
const INSTRUCTIONS: u64 = 5_000_000;
/// Memory of one rendering, in addition to that for each byte of its input.
const MEMORY: usize = 64 << 20;
/// Stack size in bytes, of which only what is used becomes memory. Values are freed level by level, and a loop can nest
/// them as deep as there is memory for.
const STACK: usize = 1 << 30;
/// Time limit. A normal rendering takes a millisecond; the instruction limit ends nearly every loop long before this.
const TIME: Duration = Duration::from_secs(20);

/// Why there is no text.
#[derive(Debug, thiserror::Error)]
pub enum JinjaError {
    /// The template is invalid, or fails on its input.
    #[error("{0}")]
    Fault(Fault),
    /// It is longer than a template may be, in bytes.
    #[error("it has {0} bytes; at most {MOST_SOURCE} are allowed")]
    TooLong(usize),
    /// It exceeds a limit.
    #[error("{0}")]
    Exceeded(#[from] Exceeded),
}

/// An error of a template, or of its input.
#[derive(Debug)]
pub struct Fault {
    /// The template's line, from 1.
    pub line: Option<usize>,
    /// The type of the error.
    pub kind: String,
    /// Details.
    pub detail: Option<String>,
    /// Whether the template raised the error itself; `detail` is its message.
    pub raised: bool,
}

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.detail.as_ref().unwrap_or(&self.kind))?;
        self.line.map_or(Ok(()), |line| write!(f, " (line {line} of the template)"))
    }
}

impl From<minijinja::Error> for Fault {
    fn from(error: minijinja::Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::OutOfFuel => format!("it executes more than {INSTRUCTIONS} instructions"),
            kind => kind.to_string(),
        };
        // A detail may hold a value of the template, however long.
        let detail = error.detail().map(|detail| detail.chars().take(MOST_DETAIL).collect());
        let raised = error.source().is_some_and(<dyn std::error::Error>::is::<Raised>);
        Self { line: error.line(), kind, detail, raised }
    }
}

/// Marks the errors that a template raises itself.
#[derive(Debug, thiserror::Error)]
#[error("raised by the template")]
struct Raised;

/// The error of a template that rejects its input.
pub fn raised(message: String) -> minijinja::Error {
    minijinja::Error::new(ErrorKind::InvalidOperation, message).with_source(Raised)
}

impl JinjaError {
    /// Whether the failure is not the template's fault: another attempt may succeed.
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Exceeded(Exceeded::NoThread(_)))
    }
}

/// Compiled templates by name.
#[derive(Clone, Debug)]
pub struct Jinja {
    environment: Arc<Environment<'static>>,
    confinement: Confinement,
}

impl Jinja {
    /// Compiles templates, given as name and source, for an environment.
    pub fn compile(
        mut environment: Environment<'static>,
        templates: Vec<(String, String)>,
    ) -> Result<Self, JinjaError> {
        if let Some((_, text)) = templates.iter().find(|(_, text)| text.len() > MOST_SOURCE) {
            return Err(JinjaError::TooLong(text.len()));
        }
        let confinement = Confinement::default();
        let compiled = confinement.run(limits(0), move || {
            for (name, text) in templates {
                environment.add_template_owned(name, text).map_err(Fault::from)?;
            }
            Ok(environment)
        });
        let environment = Arc::new(compiled?.map_err(JinjaError::Fault)?);
        Ok(Self { environment, confinement })
    }

    /// Renders a template. `size` is the total length of the values in `context`, in bytes. After a rendering that
    /// exceeded a limit, no further one is run.
    pub fn render(&self, name: &str, context: Value, size: usize) -> Result<String, JinjaError> {
        let (environment, name) = (Arc::clone(&self.environment), name.to_owned());
        let render = move || environment.get_template(&name)?.render(context);
        self.confinement.run(limits(size), move || render().map_err(Fault::from))?.map_err(JinjaError::Fault)
    }
}

/// An environment in which instructions are counted.
pub fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    environment.set_fuel(Some(INSTRUCTIONS));
    // Else an error holds the template's values, which may be nested too deep to be freed by whoever receives it.
    environment.set_debug(false);
    environment
}

fn limits(size: usize) -> Limits {
    Limits { memory: MEMORY + 32 * size, time: TIME, stack: STACK }
}
