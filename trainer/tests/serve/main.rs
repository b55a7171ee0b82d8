//! The server over real HTTP. The model behind it is scripted, so that every reply is known; the real one is tested
//! end to end elsewhere.

#[cfg(test)]
#[path = "../../feedback/src/protocol/fixture.rs"]
mod fixture;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod lifecycle;
#[cfg(test)]
mod mutations;
#[cfg(test)]
mod replies;
#[cfg(test)]
mod script;
