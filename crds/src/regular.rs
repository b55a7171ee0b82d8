//! Opens files that somebody else made: regular files only (IO).
//!
//! Opening a named pipe waits for a writer that may never come, and a device has no end; neither is a file that an input can
//! be. A name is looked at before it is opened, since opening a device can act; and what was opened is looked at again, since
//! the name may lead elsewhere by then.

use std::fs::{self, File, FileType};
use std::io::{self, Read};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;

/// Opens a regular file to read it. Links are followed.
///
/// # Errors
/// The system's, and one that says what is there instead of a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    check(fs::metadata(path)?.file_type())?;
    open_nonblocking(path)
}

/// Opens without blocking, and checks what was opened: a pipe may have replaced the file since the first check.
fn open_nonblocking(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    let file = File::options().read(true).custom_flags(flags).open(path)?;
    check(file.metadata()?.file_type())?;
    Ok(file)
}

/// The content of a regular file of at most `limit` bytes.
///
/// # Errors
/// Those of [`open`], and one that names the limit.
pub fn read(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    let read = open(path)?.take(limit.saturating_add(1)).read_to_end(&mut content)?;
    if read as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("is longer than {limit} bytes")));
    }
    Ok(content)
}

fn check(found: FileType) -> io::Result<()> {
    match other(found) {
        None => Ok(()),
        Some(other) => {
            let what = format!("expected a regular file, found {other}; put a file there");
            Err(io::Error::new(io::ErrorKind::InvalidInput, what))
        }
    }
}

/// What something is that is no regular file, in words; nothing of a regular file.
pub fn other(found: FileType) -> Option<&'static str> {
    match found {
        f if f.is_file() => None,
        f if f.is_dir() => Some("a directory"),
        f if f.is_symlink() => Some("a link"),
        f if f.is_fifo() => Some("a named pipe"),
        f if f.is_socket() => Some("a socket"),
        f if f.is_block_device() || f.is_char_device() => Some("a device"),
        _ => Some("something else"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;
    use std::sync::mpsc;
    use std::time::Duration;

    use rustix::fs::{CWD, FileType as Node, Mode, mknodat};

    #[test]
    fn a_pipe_a_socket_a_device_and_a_folder_are_refused_by_what_they_are_and_never_waited_for() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        mknodat(CWD, at("pipe"), Node::Fifo, Mode::RUSR, 0).unwrap();
        let _listener = UnixListener::bind(at("socket")).unwrap();
        symlink("/dev/zero", at("zero")).unwrap();
        symlink(at("pipe"), at("link")).unwrap();
        for (path, what) in [
            (at("pipe"), "a named pipe"),
            (at("link"), "a named pipe"),
            (at("socket"), "a socket"),
            (at("zero"), "a device"),
            ("/dev/null".into(), "a device"),
            (root.path().to_owned(), "a directory"),
        ] {
            let error = open(&path).unwrap_err().to_string();
            assert!(error.contains(what), "{}: {error}", path.display());
            assert!(read(&path, 1).is_err());
        }
        assert_eq!(open(&at("nothing")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_pipe_that_comes_in_place_of_a_file_while_it_is_opened_is_refused_at_once() {
        let root = tempfile::tempdir().unwrap();
        let pipe = root.path().join("pipe");
        mknodat(CWD, &pipe, Node::Fifo, Mode::RUSR, 0).unwrap();
        let (sender, opened) = mpsc::channel();
        std::thread::spawn(move || sender.send(open_nonblocking(&pipe)));
        let error = opened.recv_timeout(Duration::from_secs(20)).expect("it waits for a writer").unwrap_err();
        assert!(error.to_string().contains("a named pipe"), "{error}");
    }

    #[test]
    fn a_regular_file_is_read_also_through_a_link_up_to_a_limit() {
        let root = tempfile::tempdir().unwrap();
        let (file, link) = (root.path().join("file"), root.path().join("link"));
        fs::write(&file, "12345").unwrap();
        symlink("file", &link).unwrap();
        assert_eq!(read(&link, 5).unwrap(), b"12345");
        let error = read(&file, 4).unwrap_err();
        assert!(error.to_string().contains("4 bytes"), "{error}");
        // It says that it has no bytes, and gives some.
        assert!(read(Path::new("/proc/self/status"), 4).is_err());
    }
}
