"""The coordinator's side of a run of real clinics, inside the process that Flower starts for it.

proposed → preparing → rounds → evaluating → finished

All that it knows is in the run's draft folder: killed at any point, it goes on from the last whole
round when `skinml federation resume` starts it again.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from threading import Event

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from skinml.config import RunConfig, parse_config
from skinml.deployment.federation_folder import FederationFolder, open_federation
from skinml.deployment.gathering import POLL_S, Gathering, quorum_of
from skinml.deployment.kept_adverts import ADVERTS, AdvertFile
from skinml.deployment.log_lines import said_of
from skinml.deployment.patience import patient
from skinml.deployment.run_watch import LOG, RunWatch, log_event
from skinml.deployment.setup_messages import NOT_READY
from skinml.deployment.standing import Standing, read_standing, take_up, write_standing
from skinml.deployment.submission import CONFIG, find_submitted, read_proposal
from skinml.durable import read_whole
from skinml.errors import SkinmlError
from skinml.experiments.guarantee import guarantee_told
from skinml.experiments.learners import build_learner, validation_release
from skinml.experiments.outcome import Outcome, run_bundle
from skinml.experiments.published import (
    public_classes,
    public_origin,
    public_width,
    published_record,
)
from skinml.experiments.released import run_threshold
from skinml.experiments.result import read_record
from skinml.experiments.resuming import Checkpoints, Life, kept_history, strip_notes, turn
from skinml.experiments.rounds import num_rounds, tally, train
from skinml.experiments.run import SERVED_MODEL, told_config, write_result, write_run
from skinml.experiments.sites import Terms
from skinml.experiments.statistics import write_counts
from skinml.experiments.statistics_rows import require_regions
from skinml.experiments.workspace import Workspace, run_folder, run_of
from skinml.federated.coordinator import places_asker
from skinml.federated.messages import Reply, Request
from skinml.federated.roll_call import Answered, Ask, Record, RunTerms
from skinml.federated.unblocked_grid import PATIENCE_S, UnblockedGrid
from skinml.privacy.plan import STATISTICS
from skinml.privacy.planner import require_honest_clinics
from skinml.records import RunRecord
from skinml.tracking.content import clinic_rounds
from skinml.tracking.tracker import Tracker, make_tracker

VARIABLE = "SKINML_FEDERATION"
Keys = Mapping[str, str]

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Drive the run that Flower's run config names.

    Args:
        grid: Flower's grid.
        context: Its run config says which run.
    """
    conduct(open_federation(Path(os.environ[VARIABLE])), str(context.run_config["run"]), grid)


def conduct(
    folder: FederationFolder, run: str, grid: Grid, *, patience_s: float = PATIENCE_S
) -> None:
    """Drive a submitted run to its report.

    Args:
        folder: The federation's folder.
        run: The run's id.
        grid: Flower's grid.
        patience_s: As for `UnblockedGrid`; clinics inside this process compute in the call.

    Raises:
        SkinmlError: For whatever keeps the run from its report; its draft stays.
    """
    draft, final = find_submitted(folder, run), Workspace(folder.path).runs / run
    config = parse_config(json.loads(read_whole(draft / CONFIG, "config of the run")))
    tracker = make_tracker(config.tracking, folder.path, SERVED_MODEL)
    grid = UnblockedGrid(grid, patience_s=patience_s)
    gathering = Gathering(folder, read_proposal(draft), draft, grid, quorum_of(config, draft))
    with closing(grid), turn(draft) as life:
        try:
            record = None
            if draft == final:  # an earlier process died between the report and its last words
                if config.statistics is None:
                    record = read_record(final)
                    tracker.start(run, config.name, told_config(config), [], kept_history(final))
                gathering.expect_everybody()
            else:
                with run_folder(Workspace(folder.path), run, lambda _: True):
                    record = _conducted(folder, config, draft, gathering, life, tracker, grid)
            gathering.finish("completed")
            clinics, last = tuple(read_standing(final).clinics), 1
            if record is not None:
                _track(final, record, tracker)
                clinics, last = record.participation[-1].expected, record.participation[-1].round
            _close(final, life, clinics, last)
        except Exception as error:
            place = final if final.is_dir() else draft
            _failed(place, run, error, life)
            tracker.fail(type(error).__name__)
            if place == draft:  # whoever resumes it has the clinics make ready once more
                gathering.finish("failed")
            raise


def _conducted(
    folder: FederationFolder,
    config: RunConfig,
    draft: Path,
    gathering: Gathering,
    life: Life,
    tracker: Tracker,
    grid: Grid,
) -> RunRecord | None:
    """Drive a run to its report, in its draft folder; statistics have a page and no record."""
    run, clock = run_of(draft), time.monotonic() - life.before_s
    take_up(draft, life.number)
    log_event(draft, run, "taken up", life.number)
    clinics = gathering.settle()
    if config.statistics is not None:
        require_regions(config, clinics)
    width, inputs = (0, "") if config.statistics else public_width(config)
    terms = _terms(folder.name, config, run, clinics, gathering.keys, width)
    gathering.prepare(terms, Standing("preparing", dict.fromkeys(clinics, "preparing")))
    if config.statistics is not None:
        _count(config, terms, gathering, draft, life, grid, clock)
        return None
    outcome = _work(config, terms, inputs, gathering, draft, life, grid, tracker)
    record = published_record(config, clinics, terms.classes, outcome, life.began, clock)
    bundle = run_bundle(config, public_origin(config), outcome, record)
    write_run(draft, record, bundle)
    return record


def _track(final: Path, record: RunRecord, tracker: Tracker) -> None:
    report = final / "report.html"
    mlflow_run = tracker.finish(record, report, final / "report.json", final / "model")
    write_result(final, record, report, mlflow_run)


def _close(final: Path, life: Life, clinics: Sequence[str], last: int) -> None:
    """Say the last words of a run whose report is there."""
    write_standing(final, Standing("finished", dict.fromkeys(clinics, "done"), last, last))
    log_event(final, final.name, "finished", life.number)
    (final / ADVERTS).unlink(missing_ok=True)
    strip_notes(final)


def _failed(place: Path, run: str, error: Exception, life: Life) -> None:
    """Write down why a run ended, in one line; where a defect came from is in the log alone."""
    if isinstance(error, SkinmlError):
        told = words = "; ".join([str(error), *error.details])
    else:
        words = (
            f"Expected the coordinator's own code to finish the run; got {type(error).__name__}. "
            f"See {LOG} in its folder, then: skinml federation resume {run}"
        )
        told = said_of(error)
    write_standing(place, Standing("failed", read_standing(place).clinics, problem=words))
    log_event(place, run, "failed", life.number, told)


def _hearing(answered: Answered, gathering: Gathering) -> Iterator[tuple[str, Reply | str]]:
    """Have whoever says in a round that its data are not ready make them ready for the next."""
    for clinic, reply in answered.items() if isinstance(answered, Mapping) else answered:
        if isinstance(reply, Reply) and reply.problem.get("rule") == NOT_READY:
            gathering.unready(clinic)
        yield clinic, reply


def _terms(
    name: str, config: RunConfig, run: str, clinics: tuple[str, ...], keys: Keys, width: int
) -> Terms:
    require_honest_clinics(config.privacy, len(clinics))
    masked = config.privacy.trust == "distributed" and len(clinics) > 1
    return Terms(
        run=run,
        config=config.model_dump_json(),
        clinics=clinics,
        clinics_root="",
        classes=public_classes(config),
        num_features=width,
        registered=tuple((name, keys[name]) for name in clinics) if masked else (),
        coordinator=name,
        simulated=False,
    )


def _work(
    config: RunConfig,
    terms: Terms,
    inputs: str,
    gathering: Gathering,
    draft: Path,
    life: Life,
    grid: Grid,
    tracker: Tracker,
) -> Outcome:
    history = kept_history(draft)
    tracker.start(terms.run, config.name, told_config(config), [], history)
    learner = build_learner(config, terms.classes, terms.num_features, len(terms.clinics))
    validation = validation_release(config)
    checkpoints = Checkpoints(draft, terms.run, learner.rounds, Record())
    watch = _watch(draft, terms, gathering, len(history), num_rounds(learner))

    def on_round(number: int, figures: Mapping[str, float]) -> None:
        entries = checkpoints.record.participation
        watch.round_done(entries[-1])
        tracker.log_round(number, figures, clinic_rounds(entries, watch.stopwatch.times.answers))

    trained = train(
        config,
        terms,
        learner,
        validation,
        checkpoints,
        on_round,
        first_attempt=life.first_attempt,
        reach=_way_to(terms, gathering, grid),
        watch=watch.stopwatch,
        kept=AdvertFile(draft),
    )
    watch.round_done(checkpoints.record.participation[-1])
    return Outcome(
        run=terms.run,
        samples={},
        features_version=inputs,
        learner=learner,
        validation=validation,
        trained=trained,
        threshold=run_threshold(config, trained.scores),
        participation=tuple(checkpoints.record.participation),
        resumes=life.number - 1,
    )


def _count(
    config: RunConfig,
    terms: Terms,
    gathering: Gathering,
    draft: Path,
    life: Life,
    grid: Grid,
    clock: float,
) -> None:
    """Have the clinics add up their patients, and write page, table and JSON."""
    learner = build_learner(config, terms.classes, 0, len(terms.clinics))
    checkpoints = Checkpoints(draft, terms.run, learner.rounds, Record())
    watch = _watch(draft, terms, gathering, len(kept_history(draft)), len(learner.rounds))
    sums = tally(
        config,
        terms,
        learner,
        checkpoints,
        first_attempt=life.first_attempt,
        reach=_way_to(terms, gathering, grid),
        watch=watch.stopwatch,
        kept=AdvertFile(draft),
    )
    participation = tuple(checkpoints.record.participation)
    watch.round_done(participation[-1])
    write_counts(
        config,
        terms.run,
        sums[STATISTICS],
        guarantee_told(config, terms.run, participation, learner, None),
        participation,
        draft,
        began=life.began,
        wall_s=time.monotonic() - clock,
        unit=config.data.unit,
        data=config.data.name,
    )


def _watch(draft: Path, terms: Terms, gathering: Gathering, done: int, num_rounds: int) -> RunWatch:
    states = {
        name: "taking part" if name in gathering.ready else gathering.absent(name)
        for name in terms.clinics
    }
    return RunWatch(draft, terms.run, states, done, num_rounds)


def _way_to(terms: Terms, gathering: Gathering, grid: Grid) -> Callable[[RunTerms], Ask]:
    """Reach the clinics that are ready, and those that become so from round to round."""

    def reach(held_to: RunTerms) -> Ask:
        ready, absent = gathering.ready, gathering.absent
        ask = places_asker(grid, held_to, Event(), ready, absent=absent, poll_s=POLL_S, apart=True)

        def ask_whoever_is_there(requests: Mapping[str, Request]) -> Answered:
            gathering.look(terms.clinics)
            return _hearing(ask(requests), gathering)

        def expected() -> dict[str, bool]:
            gathering.look(terms.clinics)
            online = set(grid.get_node_ids())
            return {name: node in online for name, node in ready.items()}

        return patient(ask_whoever_is_there, held_to, expected)

    return reach
