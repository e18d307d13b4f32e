//! Memory that libtorch does not get: tch panics then, and a user gets a sentence.

use std::{
    panic::{self, AssertUnwindSafe, PanicHookInfo},
    sync::Mutex,
};

use anyhow::anyhow;

/// Runs `body`; a panic about memory becomes an error, any other goes on.
pub fn without_memory_panics<T>(body: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    static SHORT_OF_MEMORY: Mutex<Option<String>> = Mutex::new(None);
    let usual = panic::take_hook();
    panic::set_hook(Box::new(move |info| match memory_message(info) {
        Some(message) => *SHORT_OF_MEMORY.lock().unwrap_or_else(|e| e.into_inner()) = Some(message),
        None => usual(info),
    }));
    panic::catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|payload| {
        match SHORT_OF_MEMORY.lock().unwrap_or_else(|e| e.into_inner()).take() {
            Some(message) => Err(short_of_memory(&message)),
            None => panic::resume_unwind(payload),
        }
    })
}

/// The error for a text of libtorch that speaks of memory.
pub(crate) fn memory_error(text: &str) -> Option<anyhow::Error> {
    memory_words(text).map(|message| short_of_memory(&message))
}

fn short_of_memory(message: &str) -> anyhow::Error {
    anyhow!(
        "not enough memory: {message}; lower `train.clips` or the sizes of the model, or raise \
         `train.checkpoint_blocks`; `--dry-run` estimates what a step takes"
    )
}

fn memory_message(info: &PanicHookInfo<'_>) -> Option<String> {
    memory_words(info.payload().downcast_ref::<String>()?)
}

/// What libtorch says of memory, as one line without its backtrace.
fn memory_words(text: &str) -> Option<String> {
    let start = ["DefaultCPUAllocator", "CUDA out of memory", "out of memory"]
        .iter()
        .find_map(|mark| text.find(mark))?;
    let message = text[start..].split(['\n', '"']).next().unwrap_or_default();
    Some(message.split("\\n").next().unwrap_or_default().trim_end_matches('.').to_owned())
}
