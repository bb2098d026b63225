import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.util.concurrent.TimeUnit;
import org.apache.curator.framework.CuratorFramework;
import org.apache.curator.framework.CuratorFrameworkFactory;
import org.apache.curator.framework.recipes.locks.InterProcessLock;
import org.apache.curator.framework.recipes.locks.InterProcessMutex;
import org.apache.curator.framework.recipes.locks.InterProcessReadWriteLock;
import org.apache.curator.retry.RetryOneTime;

// Takes one of Curator's locks whenever a line says which and for how many milliseconds it waits at most:
// `mutex /path 500`. Answers `granted` or `refused`. What was granted is released by the next line.
public class Curator {
    public static void main(String[] arguments) throws Exception {
        CuratorFramework client = CuratorFrameworkFactory.newClient(arguments[0], new RetryOneTime(100));
        client.start();
        client.blockUntilConnected();
        System.out.println("connected");
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            String[] words = line.split(" ");
            InterProcessReadWriteLock both = new InterProcessReadWriteLock(client, words[1]);
            InterProcessLock lock;
            switch (words[0]) {
                case "read": lock = both.readLock(); break;
                case "write": lock = both.writeLock(); break;
                default: lock = new InterProcessMutex(client, words[1]);
            }
            if (!lock.acquire(Long.parseLong(words[2]), TimeUnit.MILLISECONDS)) {
                System.out.println("refused");
                continue;
            }
            System.out.println("granted");
            lines.readLine();
            lock.release();
            System.out.println("released");
        }
        client.close();
    }
}
