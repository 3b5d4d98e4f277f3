from django.contrib import admin
from django.urls import path

from shop import views

urlpatterns = [
    path("", views.home, name="home"),
    path("account/login", views.log_in),
    path("account/logout", views.log_out),
    path("orders/", views.order),
    path("orders/refund", views.refund),
    path("api/token", views.ApiToken.as_view()),
    path("api/refund", views.ApiRefund.as_view()),
    path("admin/", admin.site.urls),
]
