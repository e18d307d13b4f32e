//! Memory that libtorch does not get: tch panics then, and a user gets a sentence.

use std::{
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    sync::Mutex,
};

use anyhow::anyhow;

/// Runs `body`; a panic about memory becomes an error, any other goes on.
pub(crate) fn without_memory_panics<T>(
    body: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    static SHORT_OF_MEMORY: Mutex<Option<String>> = Mutex::new(None);
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| match memory_message(info) {
        Some(message) => *SHORT_OF_MEMORY.lock().unwrap_or_else(|e| e.into_inner()) = Some(message),
        None => usual(info),
    }));
    panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        match SHORT_OF_MEMORY.lock().unwrap_or_else(|e| e.into_inner()).take() {
            Some(message) => Err(anyhow!(
                "not enough memory: {message}; lower `train.clips` or the sizes of the model, \
                 `--dry-run` estimates what a step takes"
            )),
            None => panic::resume_unwind(payload),
        }
    })
}

/// What libtorch says of memory, as one line without its backtrace.
fn memory_message(info: &PanicHookInfo<'_>) -> Option<String> {
    let text = info.payload().downcast_ref::<String>()?;
    let start = ["DefaultCPUAllocator", "CUDA out of memory", "out of memory"]
        .iter()
        .find_map(|mark| text.find(mark))?;
    let message = text[start..].split(['\n', '"']).next().unwrap_or_default();
    Some(message.split("\\n").next().unwrap_or_default().trim_end_matches('.').to_owned())
}
