"""demo: the tables and three users, whose passwords are their names."""

from typing import Any

from django.contrib.auth.models import Permission, User
from django.core.management import BaseCommand, call_command


class Command(BaseCommand):
    help = "Create the database of the example."

    def handle(self, **options: Any) -> None:
        call_command("migrate", run_syncdb=True, verbosity=0)
        User.objects.create_user("alice", password="alice")
        User.objects.create_user("max", password="max").user_permissions.add(
            Permission.objects.get(codename="delete_order")
        )
        User.objects.create_superuser("root", password="root")
