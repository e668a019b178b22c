// Launch DATASET PROGRAM ROUNDS: starts PROGRAM again and again with a chunk as its output.
import java.io.File;

class Launch {
    public static void main(String[] word) throws Exception {
        for (int n = 0; n < Integer.parseInt(word[2]); n++) {
            Process process = new ProcessBuilder(word[1], String.valueOf(n))
                .redirectOutput(new File(word[0], n + ".npy"))
                .redirectError(ProcessBuilder.Redirect.INHERIT)
                .start();
            int status = process.waitFor();
            if (status != 0)
                throw new Exception("round " + n + " ended with " + status);
        }
    }
}
