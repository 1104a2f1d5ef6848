import sys
import time

import rpyc
from jobs import NoSuchJob

CONFIG = {"import_custom_exceptions": True, "instantiate_custom_exceptions": True}


def main(port):
    with (
        rpyc.connect("127.0.0.1", port, config=CONFIG) as connection,
        rpyc.connect("127.0.0.1", port, config=CONFIG) as other_connection,
    ):
        jobs = connection.root
        # The server is busy with one request of a connection at a time.
        other = other_connection.root

        number = jobs.submit("report")
        print("submitted: job", number)

        for percent in jobs.progress(number):
            print("progress:", percent)

        try:
            for percent in jobs.progress(7):
                print("progress:", percent)
        except NoSuchJob as exc:
            print("error:", exc.args[0])  # str() has the traceback of the server as well

        work = rpyc.timed(jobs.work, 0.5)(60)
        try:
            work.wait()
        except rpyc.AsyncResultTimeout:
            print("timed out; at work in the server:", other.at_work())

        # There is no cancel: the service has a method that asks its own work to stop.
        other.stop_work()
        while other.at_work():
            time.sleep(0.05)
        print("asked to stop; at work in the server:", other.at_work())


main(int(sys.argv[1]))
