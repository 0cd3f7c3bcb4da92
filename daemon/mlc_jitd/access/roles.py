"""Who may do what, by uid and gids as the kernel tells them. Pure, but for looking up names when rules are made.

A message that is not listed here may be sent by administrators alone: a new verb is closed until somebody opens it.
"""

from __future__ import annotations

import enum
import grp
import pwd
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlc_jit import messages as m

if TYPE_CHECKING:
    from collections.abc import Collection


class Role(enum.IntFlag):
    """What somebody may do; who administers may do all of it."""

    USE = 1
    PREWARM = 2
    ADMINISTER = 4


NONE, ALL = 0, int(Role.USE | Role.PREWARM | Role.ADMINISTER)

_NEEDED: dict[type[m.Message], Role] = {
    m.Hello: Role.USE,
    m.JitRequest: Role.USE,
    m.Leave: Role.USE,
    m.StatusRequest: Role.USE,
    m.ListRequest: Role.USE,
    m.Explain: Role.USE,
    m.RecordsRequest: Role.USE,
    m.TopRequest: Role.USE,
    m.WatchRequest: Role.USE,
    m.Keep: Role.PREWARM,
}

_SETTING = {Role.USE: "users", Role.PREWARM: "prewarmers", Role.ADMINISTER: "admins"}


@dataclass(frozen=True, slots=True)
class Listed:
    """Users and groups of one list, by number."""

    uids: frozenset[int] = frozenset()
    gids: frozenset[int] = frozenset()

    def has(self, uid: int, gids: Collection[int]) -> bool:
        """Whether a user is in it, or one of the user's groups is."""
        return uid in self.uids or not self.gids.isdisjoint(gids)


@dataclass(frozen=True, slots=True)
class Rules:
    """The administrator's lists, by number.

    Attributes:
        users: Who may ask for libraries and look.
        prewarmers: Who may besides pre-warm and pin.
        admins: Who may do everything.
    """

    users: Listed
    prewarmers: Listed
    admins: Listed

    @classmethod
    def of(cls, users: str, prewarmers: str, admins: str) -> tuple[Rules, tuple[str, ...]]:
        """Lists of names, uids, and groups as ``@name`` or ``@gid``, each with ``:`` between them.

        Returns:
            The rules, and the names that this host does not know: nobody has a role by those.
        """
        unknown: list[str] = []
        return cls(*(_listed(text, unknown) for text in (users, prewarmers, admins))), tuple(unknown)

    def roles(self, uid: int, gids: Collection[int]) -> int:
        """What a user may do: a sum of ``Role``, 0 for nothing.

        Args:
            uid: From the kernel; negative where it tells none.
            gids: The primary and the supplementary groups, from the kernel.
        """
        if uid < 0:
            return NONE
        if self.admins.has(uid, gids):
            return ALL
        if self.prewarmers.has(uid, gids):
            return int(Role.USE | Role.PREWARM)
        return int(Role.USE) if self.users.has(uid, gids) else NONE


def needed(message: m.Message) -> Role:
    """The role that a message takes."""
    if type(message) is m.JitRequest and message.prewarm:
        return Role.PREWARM
    return _NEEDED.get(type(message), Role.ADMINISTER)


def setting(role: Role) -> str:
    """The setting that lists who has a role."""
    return _SETTING[role]


def _listed(text: str, unknown: list[str]) -> Listed:
    uids: set[int] = set()
    gids: set[int] = set()
    for name in filter(None, text.split(":")):
        group = name.startswith("@")
        bare = name.removeprefix("@")
        try:
            number = int(bare) if bare.isdigit() else grp.getgrnam(bare).gr_gid if group else pwd.getpwnam(bare).pw_uid
        except KeyError:
            unknown.append(name)
        else:
            (gids if group else uids).add(number)
    return Listed(frozenset(uids), frozenset(gids))
