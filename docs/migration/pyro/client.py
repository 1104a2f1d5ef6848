import sys
import time

from jobs import NoSuchJob
from Pyro5 import errors
from Pyro5.api import Proxy


def main(uri):
    with Proxy(uri) as jobs:
        number = jobs.submit("report")
        print("submitted: job", number)

        for percent in jobs.progress(number):
            print("progress:", percent)

        try:
            for percent in jobs.progress(7):
                print("progress:", percent)
        except NoSuchJob as exc:
            print("error:", exc)

        jobs._pyroTimeout = 0.5
        try:
            jobs.work(60)
        except errors.TimeoutError:
            jobs._pyroTimeout = None
            print("timed out; at work in the server:", jobs.at_work())

        # There is no cancel: the service has a method that asks its own work to stop.
        jobs.stop_work()
        while jobs.at_work():
            time.sleep(0.05)
        print("asked to stop; at work in the server:", jobs.at_work())


main(sys.argv[1])
