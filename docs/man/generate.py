#!/usr/bin/python3
"""The man pages, made of what the programs and the example configuration say themselves.

  generate.py BIN-DIRECTORY OUTPUT-DIRECTORY

agentfense(1), agentfense-fsctl(8) and agentfensed(8) are the texts of --help, of each command too,
with the sections below; agentfensed.yaml(5) is docs/agentfensed.yaml, whose comments are the
reference. So a page cannot differ from its program. What is prose only is here.
"""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
SOCKET = "/run/agentfense/agentfensed.sock"

EXIT = {
    "agentfense": [
        ("0", "Done."),
        ("1", "Failed; a sentence is on stderr."),
        ("2", "Wrong usage."),
        ("124", "run, exec, shell, wait: the command ran out of time."),
        ("125", "run, exec, shell, wait: the tool itself failed, or the changes could not be "
                "applied."),
        ("128+N", "Signal N ended the command, or the tool."),
        ("other", "run, exec, shell, attach, logs \\-f, wait: the command's own."),
    ],
    "agentfense-fsctl": [
        ("0", "Done."), ("1", "Failed; a sentence is on stderr."), ("2", "Wrong usage."),
        ("fsck", "0 clean, 1 repaired, 4 something is left, 8 not checked."),
    ],
    "agentfensed": [
        ("0", "Stopped by SIGTERM or SIGINT."),
        ("1", "It could not start, or its file system was unmounted under it."),
        ("2", "Wrong usage, or a mistake in the configuration."),
    ],
}
ENVIRONMENT = {
    "agentfense": [("AGENTFENSE_SOCKET", f"The daemon's socket, unless --socket is given; "
                    f"else {SOCKET}."), ("TMPDIR", "Where run puts its private daemon.")],
    "agentfense-fsctl": [("AGENTFENSE_SOCKET", "The daemon's socket, unless --socket is given."),
                         ("NO_COLOR", "Set and not empty: no colours.")],
    "agentfensed": [("NOTIFY_SOCKET", "Is told when the daemon is ready and when it stops: "
                     "sd_notify(3)."),
                    ("JOURNAL_STREAM", "Names stderr: log lines carry a priority for the "
                     "journal.")],
}
FILES = [(SOCKET, "The API; root and the members of the group agentfense may call."),
         ("/etc/agentfense/agentfensed.yaml", "The service's configuration."),
         ("/var/lib/agentfense", "Codebases and sandboxes.")]
DESCRIPTION = {
    "agentfensed": "Serves sandboxes from one FUSE mount and answers a gRPC API on a unix socket. "
                   "It stays in the foreground, prints one line, ready, when it serves, and logs "
                   "lines of key=value on stderr.",
}
SUMMARY = {
    "agentfense": ("1", "runs commands in sandboxes on copies of directories"),
    "agentfense-fsctl": ("8", "looks into the views of agentfensed"),
    "agentfensed": ("8", "serves sandboxes for AI agents"),
}
SEE_ALSO = ["agentfense(1)", "agentfense-fsctl(8)", "agentfensed(8)", "agentfensed.yaml(5)",
            "bwrap(1)"]


def quoted(text):
    """Text as roff: nothing in it is a request or an escape."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    return "\n".join("\\&" + line if line[:1] in (".", "'") else line for line in text.split("\n"))


def literal(text):
    """A block as it stands."""
    return ".PP\n.nf\n" + quoted(text.rstrip("\n")) + "\n.fi\n"


def table(title, rows):
    """A section of terms and what they mean."""
    return f".SH {title}\n" + "".join(
        f".TP\n.B {quoted(term)}\n{quoted(text.replace(chr(92), ''))}\n" for term, text in rows)


def help_of(binary, *words):
    """What --help prints."""
    done = subprocess.run([binary, *words, "--help"], capture_output=True, text=True, check=True)
    return done.stdout


def commands_of(usage):
    """The names in the section Commands."""
    part = re.search(r"^Commands:\n(.*?)\n\n", usage, re.S | re.M)
    return re.findall(r"^  ([a-z][a-z-]*)", part.group(1), re.M) if part else []


def header(name, section, summary, version):
    """The beginning of a page."""
    return (f".\\\" Made by docs/man/generate.py.\n.TH {name.upper().replace('-', chr(92) + '-')} "
            f"{section} \"\" \"agentfense {version}\"\n"
            f".SH NAME\n{quoted(name)} \\- {quoted(summary)}\n")


def see_also(me):
    """The other pages."""
    others = [page for page in SEE_ALSO if page != me]
    ends = [","] * (len(others) - 1) + [""]
    return ".SH SEE ALSO\n" + "\n".join(
        f".BR {quoted(page[:-3])} {page[-3:]}{end}" for page, end in zip(others, ends))


def program_page(program, binary):
    """A page of a program."""
    section, summary = SUMMARY[program]
    version = subprocess.run([binary, "--version"], capture_output=True, text=True,
                             check=True).stdout.split()[-1]
    usage = help_of(binary)
    first, rest = usage.split("\n", 1)
    page = header(program, section, summary, version)
    page += ".SH SYNOPSIS\n" + quoted(re.sub("(?i)^usage: ", "", first)) + "\n.SH DESCRIPTION\n"
    page += quoted(DESCRIPTION[program]) + "\n" if program in DESCRIPTION else ""
    commands = commands_of(usage)
    page += literal(rest)
    if commands:
        page += ".SH COMMANDS\n"
    for command in commands:
        text = help_of(binary, command)
        synopsis, body = text.split("\n", 1)
        page += f".SS {quoted(re.sub('(?i)^usage: ', '', synopsis))}\n" + literal(body)
    page += table("EXIT STATUS", EXIT[program]) + table("ENVIRONMENT", ENVIRONMENT[program])
    page += table("FILES", FILES) + see_also(f"{program}({section})") + "\n"
    return f"{program}.{section}", page, version


def yaml_page(version):
    """agentfensed.yaml(5): the commented example itself."""
    text = (ROOT / "docs/agentfensed.yaml").read_text(encoding="utf-8")
    page = header("agentfensed.yaml", "5", "configuration of agentfensed", version)
    page += (".SH DESCRIPTION\nThe file that agentfensed reads with \\-\\-config. Below it stands "
             "with every option, its default and what it does.\n")
    introduction, *parts = re.split(r"^# ---- (.*?) -+$", text, flags=re.M)
    page += literal(introduction)
    for title, block in zip(parts[::2], parts[1::2]):
        page += f".SH {quoted(title.upper())}\n" + literal(block.strip("\n"))
    return "agentfensed.yaml.5", page + see_also("agentfensed.yaml(5)") + "\n"


def main():
    """Writes the four pages."""
    binaries, out = pathlib.Path(sys.argv[1]).resolve(), pathlib.Path(sys.argv[2])
    out.mkdir(parents=True, exist_ok=True)
    version = ""
    for program in SUMMARY:
        name, page, version = program_page(program, binaries / program)
        (out / name).write_text(page, encoding="utf-8")
    name, page = yaml_page(version)
    (out / name).write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
