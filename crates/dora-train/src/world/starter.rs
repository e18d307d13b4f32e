//! Who has started the processes and numbered them: torchrun or `cargo xtask train`, an MPI launcher,
//! or SLURM's `srun`.

use anyhow::bail;

use super::{
    place::{Names, Place, Variables},
    slurm::Step,
};

/// What starts several processes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Starter {
    /// torchrun and what sets its variables; they say where ranks meet, too.
    Torchrun,
    /// An MPI launcher of this name, which does not say where rank 0 is.
    Mpi(&'static str),
    /// `srun`.
    Slurm {
        /// The first machine, which has rank 0, and the last, as SLURM names them.
        hosts: Option<[String; 2]>,
        /// A port of this step's own.
        port: u16,
    },
}

/// torchrun's names.
pub(super) const TORCHRUN: Names = ["RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"];

const PMI_RANK: &str = "PMI_RANK";
const PMI_SIZE: &str = "PMI_SIZE";

/// Those of MPI launchers.
const MPI: [(&str, Names); 4] = [
    (
        "Open MPI",
        [
            "OMPI_COMM_WORLD_RANK",
            "OMPI_COMM_WORLD_SIZE",
            "OMPI_COMM_WORLD_LOCAL_RANK",
            "OMPI_COMM_WORLD_LOCAL_SIZE",
        ],
    ),
    (
        "MVAPICH",
        [
            "MV2_COMM_WORLD_RANK",
            "MV2_COMM_WORLD_SIZE",
            "MV2_COMM_WORLD_LOCAL_RANK",
            "MV2_COMM_WORLD_LOCAL_SIZE",
        ],
    ),
    // Hydra, which MPICH and Intel MPI share.
    ("MPICH", [PMI_RANK, PMI_SIZE, "MPI_LOCALRANKID", "MPI_LOCALNRANKS"]),
    ("Cray PMI", [PMI_RANK, PMI_SIZE, "PMI_LOCAL_RANK", "PMI_LOCAL_SIZE"]),
];

impl Starter {
    /// Who has started this process and at which place; `None` if it trains alone. torchrun's variables
    /// come first, since launchers within a job of SLURM or MPI set them for their workers.
    ///
    /// # Errors
    /// A variable is missing or impossible.
    pub(super) fn read(variables: Variables) -> anyhow::Result<Option<(Self, Place)>> {
        let is_set = |name| variables.text(name).is_some();
        if is_set(TORCHRUN[0]) || is_set(TORCHRUN[1]) {
            return Ok(Some((Self::Torchrun, Place::read(variables, TORCHRUN)?)));
        }
        let mpi = MPI.iter().find(|(_, names)| variables.missing(names).is_empty());
        let mpi = match mpi {
            Some((name, names)) => Some((Self::Mpi(name), Place::read(variables, *names)?)),
            None => None,
        };
        let step = Step::read(variables)?;
        let started = match (mpi, step) {
            // In a job of SLURM an MPI launcher makes a step of its daemons, one a machine, and its ranks
            // inherit their variables. Only where `srun` itself has started the ranks do both agree.
            (Some(mpi), Some(step)) if mpi.1.share != step.place.share => Some(mpi),
            (_, Some(Step { place, hosts, port })) => Some((Self::Slurm { hosts, port }, place)),
            (mpi, None) => mpi,
        };
        if started.is_none() && is_set(PMI_RANK) && variables.number(PMI_SIZE).unwrap_or(1) > 1 {
            bail!(
                "{PMI_RANK} and {PMI_SIZE} say that several processes train, but nothing says how many of them this machine has: set {}, MASTER_ADDR and MASTER_PORT",
                TORCHRUN.join(", ")
            );
        }
        Ok(started.filter(|(_, place)| place.share.world_size > 1))
    }

    /// Its name.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Torchrun => "torchrun",
            Self::Mpi(name) => name,
            Self::Slurm { .. } => "SLURM",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const OPEN_MPI: &str = "OMPI_COMM_WORLD_RANK=5 OMPI_COMM_WORLD_SIZE=8 \
         OMPI_COMM_WORLD_LOCAL_RANK=1 OMPI_COMM_WORLD_LOCAL_SIZE=4";
    const STEP: &str = "SLURM_JOB_ID=1000 SLURM_STEP_ID=0 SLURM_PROCID=5 SLURM_STEP_NUM_TASKS=8 \
         SLURM_LOCALID=1 SLURM_NODEID=1 SLURM_STEP_TASKS_PER_NODE=4(x2) SLURM_STEP_NODELIST=n[1-2]";

    /// Name of the starter, and the four numbers.
    fn read(environment: &str) -> Result<Option<(&'static str, [u64; 4])>, String> {
        let variable = |name: &str| {
            let pairs = environment.split_whitespace().map(|pair| pair.split_once('=').unwrap());
            pairs.rev().find(|(key, _)| *key == name).map(|(_, value)| value.to_owned())
        };
        let started = Starter::read(Variables(&variable)).map_err(|error| error.to_string())?;
        Ok(started.map(|(starter, place)| {
            let local = [place.local_rank, place.local_world_size].map(|number| number as u64);
            let numbers = [place.share.rank, place.share.world_size, local[0], local[1]];
            (starter.name(), numbers)
        }))
    }

    #[test]
    fn each_starter_is_known_by_its_variables() {
        let batch_script = "SLURM_JOB_ID=1000 SLURM_NTASKS=8 SLURM_TASKS_PER_NODE=4(x2) \
             SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_JOB_NODELIST=n[1-2]";
        let shell_of_salloc = "SLURM_JOB_ID=1000 SLURM_NTASKS=8 SLURM_TASKS_PER_NODE=8 \
             SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_STEP_ID=4294967290 \
             SLURM_STEP_NUM_TASKS=1 SLURM_STEP_TASKS_PER_NODE=1 SLURM_STEP_NODELIST=n1";
        let launcher_in_a_step =
            format!("{STEP} {OPEN_MPI} RANK=3 WORLD_SIZE=4 LOCAL_RANK=3 LOCAL_WORLD_SIZE=4");
        let ranks_of_daemons = format!(
            "{OPEN_MPI} {STEP} SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2 \
             SLURM_LOCALID=0 SLURM_STEP_TASKS_PER_NODE=1(x2)"
        );
        let pmi2_of_srun = format!("{STEP} PMI_RANK=5 PMI_SIZE=8");
        let cray = "PMI_RANK=5 PMI_SIZE=8 PMI_LOCAL_RANK=1 PMI_LOCAL_SIZE=4";
        let places = [5, 8, 1, 4];
        for (environment, expected) in [
            ("", None),
            (batch_script, None),
            (shell_of_salloc, None),
            (
                "SLURM_STEP_NUM_TASKS=1 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_NODEID=0 SLURM_STEP_TASKS_PER_NODE=1",
                None,
            ),
            ("PMI_RANK=0 PMI_SIZE=1", None),
            (STEP, Some(("SLURM", places))),
            (OPEN_MPI, Some(("Open MPI", places))),
            (&OPEN_MPI.replace("OMPI", "MV2"), Some(("MVAPICH", places))),
            ("PMI_RANK=5 PMI_SIZE=8 MPI_LOCALRANKID=1 MPI_LOCALNRANKS=4", Some(("MPICH", places))),
            (cray, Some(("Cray PMI", places))),
            (&launcher_in_a_step, Some(("torchrun", [3, 4, 3, 4]))),
            (&ranks_of_daemons, Some(("Open MPI", places))),
            (&pmi2_of_srun, Some(("SLURM", places))),
            (&format!("{cray} {STEP}"), Some(("SLURM", places))),
            (
                "RANK=0 WORLD_SIZE=1 LOCAL_RANK=0 LOCAL_WORLD_SIZE=1",
                Some(("torchrun", [0, 1, 0, 1])),
            ),
        ] {
            assert_eq!(read(environment), Ok(expected), "{environment}");
        }
    }

    #[test]
    fn impossible_variables_are_named() {
        for (environment, expected) in [
            ("PMI_RANK=0 PMI_SIZE=2", "PMI_RANK and PMI_SIZE say that several processes train"),
            ("RANK=0", "the variable WORLD_SIZE is not set"),
            (
                &STEP.replace("PROCID=5", "PROCID=8"),
                "`SLURM_PROCID=8` does not lie below `SLURM_STEP_NUM_TASKS=8`",
            ),
            (&STEP.replace("SLURM_LOCALID=1", ""), "the variable SLURM_LOCALID is not set"),
            (&OPEN_MPI.replace("RANK=1", "RANK=4"), "`OMPI_COMM_WORLD_LOCAL_RANK=4` does not lie"),
            (&OPEN_MPI.replace("RANK=5", "RANK=five"), "`OMPI_COMM_WORLD_RANK=five` is no number"),
        ] {
            let message = read(environment).unwrap_err();
            assert!(message.contains(expected), "{environment}: {message}");
        }
    }
}
