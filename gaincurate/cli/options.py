"""Makes Typer options from the fields of configs and the parameters of commands, and reads `--config` files.

A command is built when it runs or when its help is shown. Configs are pydantic models, and importing pydantic
would take a third of the time of `gaincurate --help`.

A file is TOML, YAML or JSON, by its ending. YAML's older rules make `off`, `no` and `on` booleans, and
`--rescore off` is a name here. So only `true` and `false` are booleans.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import UnionType
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from gaincurate.cli import output
from gaincurate.core.options import ADVANCED, PANELS, Cache, Option, checked, near
from gaincurate.core.store import Remote, located, use_cache
from gaincurate.errors import InputError

AsJson = Annotated[bool, Option("Print JSON.", names=("--json",))]
Function = Callable[..., None]
_PANELS = (None, *PANELS)
_METAVARS = {bool: "", int: "N", float: "X", Path: "PATH", str: "TEXT"}
_WIDE = 18  # columns that choices may take beside an option at a width of 80
_MANY = 5  # a command with more options takes them from a file too
_OF_A_CALL = ("as_json", "verbose", "quiet")  # how one call prints, which no file configures
_KEYWORD = inspect.Parameter.KEYWORD_ONLY
_BOOL = "tag:yaml.org,2002:bool"


def configured(*paths: str, resumes: bool = False, stores: bool = False) -> Callable[[Function], Function]:
    """Make a function a command whose parameters are the options.

    The help of an option is that of its `Option`, or its line in `Options:`, the docstring's last part.

    Args:
        paths: `module:Class` of a config whose fields are options too. The function gets it as `config`. If
            there are several, it gets the given fields as dicts: those of the first one as `config`, those of
            the others as `own`.
        resumes: whether the same command continues its work after Ctrl-C, see `output.reporting`.
        stores: whether it reads or writes object stores, and so has --cache.
    """

    def decorate(function: Function) -> Function:
        def command() -> None:
            raise AssertionError("a command is built before it runs")

        command.__name__, command.__doc__ = function.__name__.strip("_"), _help(function)[0]
        command.build = lambda: _build(function, paths, resumes, stores)  # type: ignore[attr-defined]
        return command

    return decorate


def group(*commands: Function, **settings: Any) -> typer.Typer:
    """A group of commands in the order of its help."""
    app = typer.Typer(cls=Group, no_args_is_help=True, **settings)
    for command in commands:
        app.command(cls=Command)(command)
    return app


def _help(of: Any) -> tuple[str, dict[str, str]]:
    """The help of a command, one line per paragraph, and the help of each option."""
    text, _, options = inspect.cleandoc(of.__doc__ or "").partition("\n\nOptions:\n")
    words = [" ".join(part.split()) for part in re.split(r"^    (\w+): ", options, flags=re.MULTILINE)]
    paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    return "\n\n".join(paragraphs), dict(zip(words[1::2], words[2::2], strict=True))


class _QuietHelp:
    """`--help` without `<bool>` after it."""

    def get_help_option(self, ctx: Any) -> Any:
        option: Any = super().get_help_option(ctx)  # type: ignore[misc]
        if option is not None:
            option.metavar = ""
        return option


class Group(_QuietHelp, TyperGroup):
    """A group of commands. `help COMMAND` is `COMMAND --help`."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """See `TyperGroup`."""
        return super().parse_args(ctx, [*args[1:], "--help"] if args[:1] == ["help"] else args)


class Command(_QuietHelp, TyperCommand):
    """A command made by `configured`."""

    def get_params(self, ctx: Any) -> Any:
        """The arguments and options, built at the first call."""
        if not self.params:
            function: Any = self.callback
            command = function.build()
            self.params, self.callback = command.params, command.callback
            self.aliases: dict[str, str] = command.aliases
        return super().get_params(ctx)

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse the words, with older spellings of options replaced."""
        self.get_params(ctx)
        end = args.index("--") if "--" in args else len(args)
        for place, word in enumerate(args[:end]):
            name, equals, value = word.partition("=")
            args[place] = self.aliases.get(name, name) + equals + value
        return super().parse_args(ctx, args)


def _build(function: Function, paths: Sequence[str], resumes: bool, stores: bool) -> Any:
    """The Typer command of a function: it reads the values, checks the config and calls the function."""
    places = [path.partition(":") for path in paths]
    models: list[Any] = [getattr(importlib.import_module(module), name) for module, _, name in places]
    fields = [list(_fields(model)) for model in models]
    names = [[parameter.name for _, parameter in each] for each in fields]
    options = [*chain(*fields[1:], *fields[:1]), *_parameters(function, models)]
    if stores:
        kind, *metadata = typing.get_args(Cache)
        options += _parameter("cache", kind, metadata, None)
    options.sort(key=lambda option: _PANELS.index(option[0].panel))
    markers = {parameter.name: marker for marker, parameter in options}
    parameters = [parameter for _, parameter in options]
    has_own = "config" in markers  # doctor: the trainer's settings
    if not has_own and sum(not marker.argument for marker in markers.values()) > _MANY:
        parameters.append(_config_parameter(markers))
    parameters.append(inspect.Parameter("ctx", _KEYWORD, annotation=typer.Context))

    def call(ctx: Any, config_file: Path | None = None, **values: Any) -> None:
        with output.reporting(resumes=resumes, verbose=values.get("verbose", False)):
            read = {name: _read(name, markers[name], value) for name, value in values.items()}
            if stores:
                use_cache(read.pop("cache"))
            taken = {name: read.pop(name) for name in chain(*names)}
            asked = {name for name in taken if ctx.get_parameter_source(name).name != "DEFAULT"}
            given = [{name: taken[name] for name in each if name in asked} for each in names]
            if models:
                of_config: dict[str, Any] = {}
                for name, value in given[0].items():
                    outer, _, inner = name.rpartition("__")
                    (of_config.setdefault(outer, {}) if outer else of_config)[inner] = value
                read["config"] = of_config if given[1:] else checked(models[0], of_config)
            if given[1:]:
                read["own"] = {name: each[name] for each in given[1:] for name in each}
            function(**read)

    made: Any = call
    made.__signature__ = inspect.Signature(parameters)
    made.__annotations__ = {each.name: each.annotation for each in parameters}
    app = typer.Typer(add_completion=False)
    app.command()(made)
    command: Any = typer.main.get_command(app)
    command.aliases = {marker.alias: marker.names[0] for marker in markers.values() if marker.alias}
    return command


Marked = Iterator[tuple[Option, inspect.Parameter]]


def _parameters(function: Any, models: Sequence[Any]) -> Marked:
    """A command's parameters except its config, whose class is imported only for type checking."""
    names = {model.__name__: model for model in models}
    hints = typing.get_type_hints(function, localns=names, include_extras=True)
    of_options = _help(function)[1]
    for name, parameter in inspect.signature(function).parameters.items():
        if not models or name not in ("config", "own"):
            kind, *metadata = hints[name], Option()
            if typing.get_origin(kind) is Annotated:
                kind, *metadata = typing.get_args(kind)
            yield from _parameter(name, kind, metadata, parameter.default, of_options.get(name, ""))


def _fields(model: Any, within: str = "") -> Marked:
    """The marked fields of a config, and those of a config in it as `FIELD__FIELD`."""
    of_options = _help(model)[1]
    for name, field in model.model_fields.items():
        if hasattr(field.annotation, "model_fields"):
            yield from _fields(field.annotation, f"{name}__")
        required = field.is_required()
        default = inspect.Parameter.empty if required else field.get_default(call_default_factory=True)
        text = of_options.get(name, "")
        yield from _parameter(within + name, field.annotation, field.metadata, default, text)


def _parameter(name: str, kind: Any, metadata: Sequence[Any], default: Any, text: str = "") -> Marked:
    """The Typer parameter, if an `Option` is among the metadata."""
    for marker in (each for each in metadata if isinstance(each, Option)):
        metavar, choices = _metavar(marker, kind)
        shared: dict[str, Any] = {"help": (marker.help or text) + choices, "metavar": metavar}
        if marker.read is not None:
            kind, shared["parser"] = Any, lambda value: value  # a text is left to `Option.read`
            default = marker.shown if default is not inspect.Parameter.empty else default
        elif _is_path(kind):
            shared["parser"] = _path
        else:
            for key, bound in (("min", "ge"), ("max", "le")):
                values = (getattr(each, bound, None) for each in metadata)
                shared[key] = next((value for value in values if value is not None), None)
        if marker.argument:
            info: Any = typer.Argument(**shared)
        else:
            names = marker.names or (_long(name, marker),)
            shown = not names[0].startswith(" /")  # a flag that only switches off says so itself
            info = typer.Option(*names, show_default=shown, rich_help_panel=marker.panel, **shared)
        yield marker, inspect.Parameter(name, _KEYWORD, default=default, annotation=Annotated[kind, info])


def _long(name: str, marker: Option) -> str:
    """The long spelling of an option, by default made from the name of its field."""
    long = (spelling for spelling in marker.names if spelling.startswith("--"))
    return next(long, "--" + name.rpartition("__")[2].replace("_", "-")).partition("/")[0]


def _is_path(kind: Any) -> bool:
    return kind is Path or any(map(_is_path, typing.get_args(kind)))


def _path(value: Any) -> Path:
    """A path. An empty one, such as an unset shell variable, would mean the working folder."""
    if not isinstance(value, str | Path) or value == "":
        raise typer.BadParameter("it is empty, or no path.")
    return Path(value)


def pair(value: str | Sequence[float], option: str) -> tuple[float, float]:
    """Two numbers from a text `LO,HI` or from a list of a file; an InputError for anything else."""
    try:
        low, high = map(float, value.split(",") if isinstance(value, str) else value)
    except (ValueError, TypeError) as error:
        raise InputError(f"{option} {value}: expected two numbers, LO,HI.") from error
    return low, high


def _metavar(marker: Option, kind: Any) -> tuple[str | None, str]:
    """The placeholder of a value, and a sentence with the choices that do not fit into it."""
    while typing.get_origin(kind) in (list, typing.Union, UnionType):
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is not typing.Literal:
        return marker.metavar or _METAVARS.get(kind), ""
    choices = typing.get_args(kind)
    if marker.metavar is None and len("|".join(choices)) <= _WIDE:
        return "|".join(choices), ""
    return marker.metavar or "NAME", f" One of {', '.join(choices)}."


def _read(name: str, marker: Option, value: Any) -> Any:
    """The value of an option. A path may be the URL of an object store where the option takes one."""
    if marker.read is not None:
        return marker.read(value) if isinstance(value, str) else value
    if isinstance(value, (list, tuple)):
        return [_read(name, marker, item) for item in value]
    if not isinstance(value, Path):
        return value
    place = located(value)
    if isinstance(place, Remote) and not marker.stores:
        option = marker.metavar if marker.argument else _long(name, marker)
        raise InputError(
            f"{option} {place}: expected a local path. Object stores hold data to score and scored sets, and "
            "nothing but `gaincurate score` writes there."
        )
    return place


def _config_parameter(markers: Mapping[str, Option]) -> inspect.Parameter:
    def load(ctx: typer.Context, path: Path | None) -> Path | None:
        if path is not None:
            with output.reporting():
                ctx.default_map = _read_config(path, ctx, markers)
        return path

    text = "Read options from a TOML, YAML or JSON file. The command line overrides them."
    shared: dict[str, Any] = {"metavar": "FILE", "help": text, "rich_help_panel": ADVANCED}
    file = typer.Option("--config", is_eager=True, callback=load, **shared)
    return inspect.Parameter("config_file", _KEYWORD, default=None, annotation=Annotated[Path | None, file])


def _read_config(path: Path, ctx: Any, markers: Mapping[str, Option]) -> dict[str, Any]:
    """The values of a file by parameter; an InputError for an unknown option or an invalid value."""
    names = {_long(name, marker)[2:].replace("-", "_"): name for name, marker in markers.items()}
    names |= {marker.alias.strip("-"): name for name, marker in markers.items() if marker.alias}
    params = {param.name: param for param in ctx.command.params}
    values: dict[str, Any] = {}
    for key, value in _parsed(path).items():
        name = names.get(key.replace("-", "_"))
        if name is None or name in _OF_A_CALL:
            what = f"{path}: there is no option {key!r}{near(key, names)}"
            raise InputError(f"{what}. `{ctx.command_path} --help` shows every option.", path=str(path))
        if value is None:
            continue
        param = params[name]
        if (getattr(param, "multiple", False) or param.nargs == -1) and not isinstance(value, list):
            value = [value]
        try:
            param.process_value(ctx, value)
        except typer.BadParameter as error:
            what = error.message[:1].lower() + error.message[1:].rstrip(".")
            raise InputError(f"{path}: {key} = {value!r}: {what}.", path=str(path)) from error
        values[name] = value
    return values


def _parsed(path: Path) -> dict[str, Any]:
    """The values in a file, by name."""
    from gaincurate.core.files import reading
    from gaincurate.core.foreign import json_value, read_text, toml_value

    kind = path.suffix.lower().removeprefix(".").replace("yml", "yaml").upper()
    parsers: dict[str, Callable[[str], Any]] = {"TOML": toml_value, "YAML": _yaml, "JSON": json_value}
    if kind not in parsers:
        raise InputError(f"--config {path}: expected a file that ends in .toml, .yaml, .yml or .json.")
    try:
        with reading(path):
            if not path.exists():
                raise InputError(f"--config {path} does not exist.", path=str(path))
            values = parsers[kind](read_text(path))
        json.dumps(values)
    except TypeError as error:  # of YAML and TOML: a date, bytes, a set
        raise InputError(f"--config {path}: {error}; put a text in quotes.", path=str(path)) from error
    except ValueError as error:
        reason = " ".join(str(error).split()).removesuffix(".")
        raise InputError(f"--config {path} is no {kind}: {reason}.", path=str(path)) from error
    if not isinstance(values, dict) or not all(isinstance(key, str) for key in values):
        raise InputError(f"--config {path}: expected options as names with values.", path=str(path))
    return values


def _yaml(text: str) -> Any:
    import yaml

    from gaincurate.core.foreign import yaml_value

    class Loader(yaml.SafeLoader):  # type: ignore[misc]
        yaml_implicit_resolvers = {  # noqa: RUF012, as the library has it
            first: [rule for rule in rules if rule[0] != _BOOL]
            for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
        }

    Loader.add_implicit_resolver(_BOOL, re.compile("true|false", re.IGNORECASE), list("tTfF"))
    return yaml_value(text, Loader)
