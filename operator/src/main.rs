//! `plumbline`: the operator and the command line.

fn main() -> std::process::ExitCode {
    plumbline_operator::cli::main()
}
