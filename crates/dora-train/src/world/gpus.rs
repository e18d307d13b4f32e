//! Which GPU a rank takes, and whether two have taken the same.

/// The index of a rank's GPU among the `gpus` that it sees, or `None` if there is none for it.
///
/// Whoever starts the ranks of a machine either lets each see all GPUs, and the rank's number there is
/// the GPU's; or shows each its own alone, as SLURM does with `--gpus-per-task`.
pub(crate) fn index(local_rank: usize, gpus: usize) -> Option<usize> {
    if gpus == 1 { Some(0) } else { (local_rank < gpus).then_some(local_rank) }
}

/// The first two ranks whose GPUs have the same UUID, given in halves; zeros stand for one that is not
/// known.
pub(super) fn first_shared(uuids: &[[i64; 2]]) -> Option<(usize, usize)> {
    uuids.iter().enumerate().find_map(|(second, uuid)| {
        let first = uuids.iter().position(|other| other == uuid)?;
        (first < second && *uuid != [0; 2]).then_some((first, second))
    })
}

/// A UUID as `nvidia-smi -L` prints it.
pub(super) fn name([high, low]: [i64; 2]) -> String {
    let hex = format!("{high:016x}{low:016x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &hex[part]);
    format!("GPU-{}", parts.join("-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rank_takes_its_own_gpu_or_the_one_it_sees() {
        for (local_rank, gpus, expected) in [
            (0, 8, Some(0)),
            (7, 8, Some(7)),
            (8, 8, None),
            (0, 1, Some(0)),
            (3, 1, Some(0)),
            (2, 2, None),
            (0, 0, None),
        ] {
            assert_eq!(index(local_rank, gpus), expected, "rank {local_rank} of {gpus} GPUs");
        }
    }

    #[test]
    fn two_ranks_with_one_gpu_are_found() {
        let [a, b, c, unknown] = [1, 2, 3, 0].map(|half| [half; 2]);
        for (uuids, expected) in [
            (vec![], None),
            (vec![a, b, c], None),
            (vec![a, b, c, b, a], Some((1, 3))),
            (vec![a, a], Some((0, 1))),
            (vec![unknown, a, unknown, b], None),
            (vec![unknown, a, unknown, a], Some((1, 3))),
        ] {
            assert_eq!(first_shared(&uuids), expected, "{uuids:?}");
        }
        let uuid = [0x0011_2233_4455_6677, 0x8899_aabb_ccdd_eeff_u64 as i64];
        assert_eq!(name(uuid), "GPU-00112233-4455-6677-8899-aabbccddeeff");
    }
}
