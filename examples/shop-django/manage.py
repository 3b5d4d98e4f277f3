"""A shop in Django: the admin, sessions, forms with CSRF tokens, and an API of Django REST framework.

python manage.py demo       # the database, and the users alice, max and root
python manage.py runserver
"""

import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "shop.settings")
    execute_from_command_line(sys.argv)
