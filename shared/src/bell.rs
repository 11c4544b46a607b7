//! One thread waits, others ring: something came, or the program stops.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The bell of one thread. A ring while nobody waits is kept.
#[derive(Clone, Debug, Default)]
pub struct Bell(Arc<(Mutex<State>, Condvar)>);

#[derive(Debug, Default)]
struct State {
    rung: bool,
    stopping: bool,
}

impl Bell {
    /// Wakes the thread.
    pub fn ring(&self) {
        self.state().rung = true;
        self.0.1.notify_all();
    }

    /// Tells the thread to end, and wakes it.
    pub fn stop(&self) {
        self.state().stopping = true;
        self.0.1.notify_all();
    }

    /// Whether the thread is to end.
    pub fn stopping(&self) -> bool {
        self.state().stopping
    }

    /// Waits for a ring, for the stop, or for the time to pass.
    pub fn wait(&self, time: Duration) {
        let waiting = |state: &mut State| !state.rung && !state.stopping;
        let (mut state, _) = self
            .0
            .1
            .wait_timeout_while(self.state(), time, waiting)
            .unwrap_or_else(PoisonError::into_inner);
        state.rung = false;
    }

    /// Waits for the stop or for the time to pass, whoever rings.
    pub fn rest(&self, time: Duration) {
        let waiting = |state: &mut State| !state.stopping;
        let _ = self.0.1.wait_timeout_while(self.state(), time, waiting);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
