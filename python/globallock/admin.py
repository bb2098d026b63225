"""The locks in the admin: a list, the queue of each, and a button that breaks a claim."""

from __future__ import annotations

import logging
from typing import Any, List
from urllib.parse import urlencode

from django.contrib import admin, messages
from django.contrib.admin.utils import unquote
from django.core.exceptions import PermissionDenied
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import path, reverse

from .django import get_shared_global_lock_manager
from .django.words import lasted, printable, who
from .exceptions import GlobalLockClassNotFoundException, GlobalLockError
from .models import Lock

__all__ = ["LockAdmin"]

_logger = logging.getLogger("globallock")

#: How many locks one page shows. A prefix narrows it.
SHOWN = 500
#: The permission to break a lock, without which nobody sees the button.
BREAK = "globallock.break_lock"


@admin.register(Lock)
class LockAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Shows what the store has. Nothing is read from or written to a table of locks.

    Each page has the name of the lock as a parameter, because a name may contain whatever a path may not.
    """

    def has_add_permission(self, request: HttpRequest, *_: Any) -> bool:
        """Nobody: a lock is made by acquiring it."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: a lock is broken, by a permission of its own."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Nobody: the same."""
        return False

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Who may view locks, or break them."""
        return super().has_view_permission(request, obj) or self.has_break_permission(request)

    def has_break_permission(self, request: HttpRequest) -> bool:
        """Who may break locks."""
        user: Any = request.user
        return bool(user.has_perm(BREAK))

    def get_urls(self) -> "List[Any]":
        """The pages. The usual ones would ask a table that does not exist."""
        view = self.admin_site.admin_view
        return [
            path("", view(self.list_page), name="globallock_lock_changelist"),
            path("lock/", view(self.lock_page), name="globallock_lock_queue"),
            path("break/", view(self.break_page), name="globallock_lock_break"),
            # The log of the admin links here.
            path("<path:object_id>/change/", view(self.logged_page), name="globallock_lock_change"),
        ]

    def list_page(self, request: HttpRequest) -> HttpResponse:
        """Lists the locks that are held or waited for."""
        self._check(request)
        prefix = request.GET.get("q", "")
        found, problem = self._asked(lambda lockman: lockman.list(prefix))
        rows = [
            {
                "name": printable(each.name),
                "url": self._url("queue", name=each.name),
                "mode": each.kind or "-",
                "holders": each.holders,
                "waiters": each.waiters,
                "lasted": lasted(each.oldest),
                "token": each.fencing_token or "-",
            }
            for each in (found or [])[:SHOWN]
        ]
        more = max(0, len(found or []) - SHOWN)
        context = {"title": "Locks", "rows": rows, "more": more, "prefix": prefix, "problem": problem}
        return self._page(request, "list", context)

    def lock_page(self, request: HttpRequest) -> HttpResponse:
        """Shows the holders and the waiters of one lock, in order."""
        self._check(request)
        name = request.GET.get("name", "")
        claims, problem = self._asked(lambda lockman: lockman.inspect(name))
        may_break, place, rows = self.has_break_permission(request), 0, []
        for claim in claims or []:
            place += not claim.held
            rows.append(
                {
                    "state": "holds" if claim.held else f"waits, place {place}",
                    "owner": who(claim),
                    "lasted": lasted(claim.age),
                    "expires": lasted(claim.expires_in),
                    "permits": f"{claim.permits}/{claim.capacity}",
                    "token": claim.fencing_token or "-",
                    "url": self._url("break", name=name, claim=claim.key) if may_break else None,
                }
            )
        context = {"title": printable(name), "rows": rows, "may_break": may_break, "problem": problem}
        return self._page(request, "lock", context)

    def break_page(self, request: HttpRequest) -> HttpResponse:
        """Asks, and after a POST takes exactly the claim that was seen out of the queue."""
        if not self.has_break_permission(request):
            raise PermissionDenied
        # In the address, because a form would change line breaks in a name.
        name, key = request.GET.get("name", ""), request.GET.get("claim", "")
        claims, problem = self._asked(lambda lockman: lockman.inspect(name))
        claim = next((each for each in claims or [] if each.key == key), None)
        back = HttpResponseRedirect(self._url("queue", name=name))
        if problem is None and claim is None:
            messages.warning(request, "It has gone meanwhile: nothing was broken.")
            return back
        if claim is None or request.method != "POST":
            waiters = sum(not each.held for each in claims or [] if each.key != key)
            context = {
                "title": f"Break {printable(name)}?",
                "name": printable(name),
                "here": self._url("break", name=name, claim=key),
                "claim": claim,
                "owner": who(claim) if claim is not None else "",
                "lasted": lasted(claim.age) if claim is not None else "",
                "waiters": waiters,
                "back": self._url("queue", name=name),
                "problem": problem,
            }
            return self._page(request, "break", context)
        user, reason = request.user.get_username(), request.POST.get("reason", "").strip()
        told = f"{user}, in the admin" + (f": {reason}" if reason else "")
        is_broken, problem = self._asked(lambda lockman: lockman.evict(name, claim, reason=told))
        if problem is not None:
            messages.error(request, f"Whether it was broken is not certain: {problem}")
        elif not is_broken:
            messages.warning(request, "It has gone meanwhile: nothing was broken.")
        else:
            does = "held" if claim.held else "waited for"
            message = f"Broken: {who(claim)} {does} it for {lasted(claim.age)}, token {claim.fencing_token}."
            _logger.warning("lock %r was broken by %s; %s", name, told, message)
            self.log_change(request, Lock(name=name), f"{message} {reason}".strip())
            messages.success(request, message)
        return back

    def logged_page(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Leads from an entry of the log to the lock."""
        return HttpResponseRedirect(self._url("queue", name=unquote(object_id)))

    def _check(self, request: HttpRequest) -> None:
        if not self.has_view_permission(request):
            raise PermissionDenied

    def _url(self, page: str, **parameters: str) -> str:
        where = reverse(f"admin:globallock_lock_{page}", current_app=self.admin_site.name)
        return f"{where}?{urlencode(parameters)}"

    def _asked(self, ask: Any) -> Any:
        """What the store answers, and what is told where it does not."""
        try:
            return ask(get_shared_global_lock_manager()), None
        except (GlobalLockError, GlobalLockClassNotFoundException) as error:
            return None, str(error)

    def _page(self, request: HttpRequest, page: str, context: "dict[str, Any]") -> HttpResponse:
        request.current_app = self.admin_site.name
        status = 200 if context["problem"] is None else 503
        full = {**self.admin_site.each_context(request), "opts": self.opts, **context}
        return TemplateResponse(request, f"globallock/admin/{page}.html", full, status=status)
