//! `plumbline wait-for-leader`: asks operator replicas whether one leads, for `helm test`, whose image has no other
//! program that could ask. Talks to sockets.

use std::io::{self, BufRead, BufReader, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::printable::cause;

/// For one connection and its answer.
const PATIENCE: Duration = Duration::from_secs(3);
/// Between two questions.
const PAUSE: Duration = Duration::from_millis(500);

/// No replica became the leader in time.
#[derive(Debug, thiserror::Error)]
pub enum NotReady {
    /// None leads.
    #[error(
        "http://{address}/readyz: expected an elected leader within {timeout:?}, found \"{answer}\"; check the operator's log"
    )]
    NoLeader {
        /// Where it was asked.
        address: String,
        /// How long.
        timeout: Duration,
        /// The status line of the last answer.
        answer: String,
    },
    /// None answers.
    #[error(
        "cannot reach http://{address}/readyz within {timeout:?}: {}; check --address, and that the operator runs",
        cause(source)
    )]
    NoAnswer {
        /// Where it was asked.
        address: String,
        /// How long.
        timeout: Duration,
        /// Why.
        source: io::Error,
    },
}

/// Waits until `/readyz` at `host:port` is answered with 200. Each question has a connection of its own, so that behind a
/// Service all operators are asked in turn.
pub fn wait(address: &str, timeout: Duration) -> Result<(), NotReady> {
    let deadline = Instant::now() + timeout;
    loop {
        let answer = status(address);
        if answer.as_ref().is_ok_and(|status| status.split(' ').nth(1) == Some("200")) {
            return Ok(());
        }
        if Instant::now() + PAUSE > deadline {
            let address = address.to_owned();
            return Err(match answer {
                Ok(answer) => NotReady::NoLeader { address, timeout, answer },
                Err(source) => NotReady::NoAnswer { address, timeout, source },
            });
        }
        sleep(PAUSE);
    }
}

/// The status line of the answer.
fn status(address: &str) -> io::Result<String> {
    let to = address.to_socket_addrs()?.next().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let mut stream = TcpStream::connect_timeout(&to, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n")?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line)?;
    Ok(line.trim_end().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;
    use std::thread;

    /// Answers each question with the next of these, and the last one for ever.
    fn server(answers: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        thread::spawn(move || {
            for number in 0.. {
                let (mut stream, _) = listener.accept().unwrap();
                // To the empty line: what is left unread when a socket is closed takes the answer with it.
                let head = BufReader::new(&stream).lines().map_while(Result::ok).take_while(|line| !line.is_empty());
                assert_eq!(head.collect::<Vec<_>>()[0], "GET /readyz HTTP/1.1");
                let answer = answers[number.min(answers.len() - 1)];
                write!(stream, "HTTP/1.1 {answer}\r\nContent-Length: 0\r\n\r\n").unwrap();
            }
        });
        address
    }

    #[test]
    fn one_that_waits_for_the_lead_is_asked_again_until_one_leads() {
        let address = server(&["503 Service Unavailable", "200 OK"]);
        assert!(wait(&address, Duration::from_mins(1)).is_ok());
    }

    #[test]
    fn where_nobody_leads_it_says_what_was_answered() {
        let address = server(&["503 Service Unavailable"]);
        let error = wait(&address, Duration::from_secs(1)).unwrap_err().to_string();
        assert!(error.contains(&address) && error.contains("503 Service Unavailable"), "{error}");
    }

    #[test]
    fn where_nobody_listens_it_says_so() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = wait(&address, Duration::from_secs(1)).unwrap_err().to_string();
        assert!(error.contains("within 1s: connection refused; check --address"), "{error}");
    }
}
