//! Paths that a file, a bucket or a server names: below a folder, and nowhere else. Computes only.

/// The longest part of a path, in bytes. File systems take 255; the rest is for what a name gets while the file is written.
pub const MAX_PART: usize = 240;
/// The longest path, in bytes: that of a key in S3.
pub const MAX_PATH: usize = 1024;

/// Checks that a path with `/` leads to something below the folder that it is relative to, and can be a file's name.
///
/// # Errors
/// What is wrong with it, with the path: absolute, an empty part, `.` or `..`, a control character, too long.
pub fn check(path: &str) -> Result<(), String> {
    // Debug form: a control character must not reach a terminal.
    let wrong = |what: &str| {
        let shown: String = path.chars().take(80).collect();
        Err(format!("{shown:?} is not a path below a directory: {what}"))
    };
    if path.is_empty() {
        return wrong("it is empty");
    }
    if path.starts_with('/') {
        return wrong("it is absolute");
    }
    if path.chars().any(char::is_control) {
        return wrong("it has a control character");
    }
    if path.len() > MAX_PATH {
        return wrong(&format!("it has {} bytes, more than {MAX_PATH}", path.len()));
    }
    for part in path.split('/') {
        match part {
            "" => return wrong("a part of it is empty"),
            "." | ".." => return wrong("it has a part \".\" or \"..\""),
            part if part.len() > MAX_PART => {
                return wrong(&format!("a part of it has {} bytes, more than {MAX_PART}", part.len()));
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_leads_out_of_a_folder_or_cannot_be_a_name_is_refused_with_the_reason() {
        for (path, reason) in [
            ("", "empty"),
            ("/etc/passwd", "absolute"),
            ("../a", "\"..\""),
            ("a/../../b", "\"..\""),
            ("a/./b", "\".\""),
            ("a//b", "empty"),
            ("a/", "empty"),
            ("a\0b", "control"),
            ("a\nb", "control"),
            ("a\u{9b}b", "control"),
            (&"n".repeat(MAX_PART + 1), "241 bytes"),
            (&vec!["n".repeat(200); 6].join("/"), "1205 bytes"),
        ] {
            let error = check(path).unwrap_err();
            assert!(error.contains(reason) && !error.chars().any(char::is_control), "{error}");
        }
        let longest = "n".repeat(MAX_PART);
        for path in ["a", "data/train-00000.jsonl", "..a/b..", ".a", "naïve/ö", "a b", "a\\b", &longest] {
            assert_eq!(check(path), Ok(()), "{path}");
        }
    }
}
